"""Abandoned: batches whose task was killed while nobody could hear of it, cancelled by the next task or triggerer of the same ledger.

`kill` needs somebody whom Airflow tells of a kill: the worker, or the triggerer that has the trigger.  From the moment in which a task defers until a
triggerer has its trigger, and from the death of a triggerer until another one takes over, there is nobody.  A batch that is cancelled by mistake is
paid and thrown away, so three things must be true of its job run:

- Nobody has looked at it for a minute after a look was due.  A trigger that is alive looks in time.
- The task instance has ended, says this Airflow.  One that it does not know may be of another Airflow that uses the same ledger.
- It only waits.  A task that fails by itself has ended, too, and is cleared later for what it paid for; such a task gives up its attachment (`task`), and
  where it could not, since the ledger was away or the worker died, its job run wants a worker.

What a kill could not cancel, since the provider was away, is cancelled here as well.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING

from keld import RunState
from keld_airflow.holder import TaskInstance, instance_of
from keld_airflow.kill import OVER, state_key, states_of

if TYPE_CHECKING:
    from keld import Keld

log = logging.getLogger(__name__)

_UNSEEN = timedelta(minutes=1)
_AT_ONCE = 50  # Dag runs in one question: they are a part of its URL


def cancel_abandoned(keld: Keld) -> list[str]:
    """The job runs that were cancelled, or are being cancelled; blocks, and asks Airflow and the provider only if there may be some."""
    unseen = keld.overlooked(_UNSEEN)
    cancelling = [status.id for status in unseen if status.state is RunState.CANCELLING]
    waiting = [status.id for status in unseen if status.state is RunState.OPEN and not status.wants_worker]
    held = [(one, instance) for one in keld.holders(waiting) if (instance := instance_of(one.holder)) is not None]
    over = _over({instance for _, instance in held})
    for one, instance in held:
        if instance in over and keld.detach(one.run_id, one.holder, one.epoch):
            log.warning("job_run.abandoned run=%s holder=%s", one.run_id, one.holder)
            cancelling.append(one.run_id)
    if cancelling:
        keld.poll(cancelling)
    return cancelling


def _over(instances: Collection[TaskInstance]) -> set[TaskInstance]:
    """Those that have ended; asks Airflow's API once for each Dag and map index, and some Dag runs."""
    over = set[TaskInstance]()
    for dag_id, map_index in sorted({(one.dag_id, one.map_index) for one in instances}):
        these = sorted((one for one in instances if (one.dag_id, one.map_index) == (dag_id, map_index)), key=lambda one: one.run_id)
        for first in range(0, len(these), _AT_ONCE):
            some = these[first : first + _AT_ONCE]
            states = states_of(dag_id, map_index, {one.task_id for one in some}, {one.run_id for one in some})
            over.update(one for one in some if states.get(one.run_id, {}).get(state_key(one.task_id, map_index)) in OVER)
    return over
