"""Cascade and hedge: cheap first, and certainty for its price."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import BaseModel

from keld import Job, Keld, Status, failpoint
from keld.cascade import serialize_accept, unsatisfied
from keld.emulator import Emulator
from keld.errors import InvalidJob
from keld.schema import output_schema
from tests.support.ticket_job import anthropic, fault, finish, openai, outcomes, purchases, run, tickets, triage

pytestmark = pytest.mark.by_turns

CASCADE = ["openai:gpt-5-mini", "anthropic:claude-haiku-4-5"]


class Sure(BaseModel):
    category: str
    confidence: float


def half_sure(body: dict[str, Any]) -> dict[str, Any]:
    """The cheap model is sure of even tickets only, the strong one of all."""
    cheap, text = "gpt" in body["model"], str(body)
    ticket = next(n for n in range(100) if f"ticket {n}:" in text)
    return {"category": "cheap" if cheap else "strong", "confidence": 0.3 if cheap and ticket % 2 else 0.9}


@pytest.fixture
def unsure(open_keld: Callable[..., Keld], open_emulator: Callable[..., Emulator]) -> Emulator:
    """The latest emulator is the one that clients find: after the one that `open_keld` brings."""
    return open_emulator(responder=half_sure)


@pytest.fixture
def at(unsure: Emulator, open_keld: Callable[..., Keld]) -> Keld:
    return open_keld(clock=unsure.now)


def cascade(**terms: Any) -> Job:
    return triage(openai, **{"models": CASCADE, "output_type": Sure, "accept": {"confidence": 0.8}, **terms})


# --- what satisfies ---------------------------------------------------------------------------------------------------


def test_what_the_cheap_model_is_not_sure_of_is_asked_of_the_strong_one(at: Keld, unsure: Emulator) -> None:
    status = run(at, unsure, cascade())
    assert at.read(status.id).read_all().column("category").to_pylist() == ["cheap", "strong"] * 3
    assert purchases(unsure) == {0: 1, 1: 2, 2: 1, 3: 2, 4: 1, 5: 2}
    assert Counter(entry.provider for entry in unsure.bill()) == {"openai": 6, "anthropic": 3}


def test_a_row_costs_what_both_models_took(at: Keld, unsure: Emulator) -> None:
    status = run(at, unsure, cascade())
    costs = at.read(status.id).read_all().column("keld_cost_usd").to_pylist()
    assert sum(costs) == status.cost_usd
    assert costs[1] > costs[0]


def test_an_expression_over_the_answers_columns_says_what_satisfies(at: Keld, unsure: Emulator) -> None:
    status = run(at, unsure, cascade(accept=(pc.field("confidence") >= 0.8) | (pc.field("category") != "cheap")))
    assert at.read(status.id).read_all().column("category").to_pylist() == ["cheap", "strong"] * 3


def test_where_the_ceiling_has_no_room_the_cheap_answer_stands(at: Keld, unsure: Emulator, open_keld: Callable[..., Keld]) -> None:
    models = [CASCADE[0], "anthropic:claude-opus-4-5"]
    worst = at.plan(cascade(models=CASCADE[:1], accept=None), tickets()).chosen
    assert worst is not None
    assert worst.worst_usd is not None
    status = run(at, unsure, cascade(models=models, ceiling_usd=worst.worst_usd))
    assert outcomes(at, status) == ["answered"] * 6
    assert status.cost_usd <= worst.worst_usd
    assert at.read(status.id).read_all().column("category").to_pylist() == ["cheap"] * 6


def test_after_the_deadline_nothing_better_is_asked_for(at: Keld, unsure: Emulator) -> None:
    """The cheap answers are there; to wait longer for better ones is not what was wished."""
    status = at.submit(cascade(deadline=unsure.now() + timedelta(hours=2), lane="batch"), tickets())
    at.advance(status.id)
    unsure.advance(timedelta(hours=3))
    status = finish(at, unsure, status.id)
    assert at.read(status.id).read_all().column("category").to_pylist() == ["cheap"] * 6
    assert max(purchases(unsure).values()) == 1


def test_what_the_cheap_model_refuses_or_gets_wrong_goes_to_the_strong_one(at: Keld, unsure: Emulator) -> None:
    fault(unsure, "rows", "refusal", count=1)
    status = run(at, unsure, cascade(accept={"confidence": 0.0}))
    assert outcomes(at, status) == ["answered"] * 6
    assert sorted(at.read(status.id).read_all().column("category").to_pylist()) == ["cheap"] * 5 + ["strong"]


def test_run_again_nothing_is_asked_again(at: Keld, unsure: Emulator) -> None:
    first = run(at, unsure, cascade())
    bought = len(unsure.bill())
    again = run(at, unsure, cascade())
    assert (again.id, len(unsure.bill())) == (first.id, bought)
    changed = tickets(changed=[0])
    third = run(at, unsure, cascade(), changed)
    assert len(unsure.bill()) == bought + 1
    assert at.read(third.id).read_all().column("category").to_pylist() == ["cheap", "strong"] * 3


@pytest.mark.parametrize(
    "accept", [pc.field("nobody") > 1, pc.field("confidence"), {"category": 0.5}, pc.utf8_length(pc.field("category")) > 2, "confidence"]
)
def test_what_is_no_yes_or_no_over_the_answer_is_said_before_anything_is_sent(at: Keld, unsure: Emulator, accept: Any) -> None:
    with pytest.raises(InvalidJob, match=r"(?s)accept= cannot be used.*Nothing was sent"):
        at.submit(cascade(accept=accept), tickets())
    assert not unsure.requests()


def test_one_model_has_none_behind_it() -> None:
    with pytest.raises(InvalidJob, match="Add a stronger model"):
        cascade(models="openai:gpt-5-mini")


def test_a_null_does_not_satisfy() -> None:
    output = output_schema(Sure)
    serialized = serialize_accept("j", {"confidence": 0.5}, output)
    assert serialized is not None
    rows = pa.RecordBatch.from_pylist([{"category": "a", "confidence": None}, {"category": "b", "confidence": 0.5}], schema=output.columns)
    assert unsatisfied(rows, serialized).tolist() == [True, False]


# --- certainty for its price ------------------------------------------------------------------------------------------


def wait(keld: Keld, emulator: Emulator, status: Status) -> Status:
    """The job run when it is over, or at its deadline: looked at twice an hour, and every minute in the last half hour."""
    assert status.deadline_at is not None
    while not (status := keld.advance(status.id)).over and emulator.now() < status.deadline_at:
        emulator.advance(timedelta(minutes=30 if status.deadline_at - emulator.now() > timedelta(hours=1) else 1))
    return status


@pytest.mark.wide
def test_a_hedged_batch_that_heeds_no_cancel_is_left_to_the_sweep_and_paid_twice_knowingly(keld: Keld, emulator: Emulator) -> None:
    emulator.faults(
        {"rules": [{"at": "life", "do": "stuck"}, {"at": "cancel", "do": "status", "status": 500, "times": None, "retry_after": 0.001}]}
    )
    status = keld.submit(triage(anthropic, deadline=emulator.now() + timedelta(hours=3), hedge=True), tickets())
    status = wait(keld, emulator, status)
    assert status.deadline_met
    assert outcomes(keld, status) == ["answered"] * 6
    assert [shard.lane for shard in keld.ledger.shards(status.id)] == ["batch", "standard"]
    assert len(keld.ledger.orphans.of(status.id)) == 1


@pytest.mark.share(2)
@pytest.mark.parametrize("point", ["ledger.hedged.before", "ledger.hedged.after"])
def test_a_worker_that_dies_while_it_hedges_leaves_one_orphan_at_most(
    keld: Keld, emulator: Emulator, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is given up and noted as an orphan in one transaction."""
    emulator.faults(
        {"rules": [{"at": "life", "do": "stuck"}, {"at": "cancel", "do": "status", "status": 500, "times": None, "retry_after": 0.001}]}
    )
    status = keld.submit(triage(anthropic, deadline=emulator.now() + timedelta(hours=3), hedge=True), tickets())
    monkeypatch.setenv("KELD_FAILPOINT", f"{point}:raise")
    failpoint._passes.clear()
    with pytest.raises(failpoint.FailpointHit):
        wait(keld, emulator, status)
    monkeypatch.delenv("KELD_FAILPOINT")
    status = wait(keld, emulator, status)
    assert outcomes(keld, status) == ["answered"] * 6
    assert len(keld.ledger.orphans.of(status.id)) == 1
    assert Counter(entry.lane for entry in emulator.bill())["standard"] == 6


def test_without_a_hedge_it_is_waited_for(keld: Keld, emulator: Emulator) -> None:
    """Late is better than twice, unless the user says otherwise."""
    emulator.faults(
        {"rules": [{"at": "life", "do": "stuck"}, {"at": "cancel", "do": "status", "status": 500, "times": None, "retry_after": 0.001}]}
    )
    status = keld.submit(triage(anthropic, deadline=emulator.now() + timedelta(hours=3)), tickets())
    assert not wait(keld, emulator, status).over
    assert [shard.lane for shard in keld.ledger.shards(status.id)] == ["batch"]


@pytest.mark.wide
def test_a_hedge_under_a_ceiling_counts_both(keld: Keld, emulator: Emulator, tmp_path: Path) -> None:
    emulator.faults(
        {"rules": [{"at": "life", "do": "stuck"}, {"at": "cancel", "do": "status", "status": 500, "times": None, "retry_after": 0.001}]}
    )
    plan = keld.plan(triage(anthropic), tickets()).chosen
    assert plan is not None
    assert plan.worst_usd is not None
    ceiling = plan.worst_usd * Decimal("1.5")
    status = keld.submit(triage(anthropic, deadline=emulator.now() + timedelta(hours=3), hedge=True, ceiling_usd=ceiling), tickets())
    status = wait(keld, emulator, status)
    found = keld.ledger.run(status.id)
    assert found.spent_usd + found.reserved_usd <= ceiling
