"""Keld in Airflow: one task instance is one job run; while it waits it takes no slot, and a triggerer polls the provider for all of them.

Above the front door of `keld`, and importing nothing deeper.  The files, in the order in which a partition passes them:

    operator   KeldBatchOperator: a job over the partition of a Dag run
    decorator  @task.keld_batch: the same, its rows given by a function
    sensor     KeldJobSensor: waits for a job run that a task with `wait=False` has sent
    terms      the terms of a job as fields of a task, which Airflow renders before the job is made
    value      the value of a term: a number, a list, an object, from the text that a template leaves
    text       a prompt as a field: read from a file, rendered once, hidden from Airflow's store
    setting    the arguments that operator and sensor have in common, with Airflow's own defaults
    task       what those have in common: advance, then defer, or finish and hand over
    partition  Dag run -> the partition's key and its end
    place      where rows come from and go to, as a Dag declares it
    hidden     rows that another task gave, hidden from Airflow's store of rendered fields
    hook       KeldHook: an Airflow connection -> a `keld.Keld`
    configuration  the section [keld] of Airflow's configuration, and the home that follows
    lookup     whether a connection that Airflow did not find is absent, or could not be asked for
    ledger     a connection to Postgres -> the URL of a ledger in it
    account    a connection, of Keld's type or another provider's -> an account
    cloud      an identity in a cloud, as a connection says it -> credentials of the cloud's own library
    form       the form of such a connection, for Airflow 3.1
    trigger    KeldTrigger: waits in the triggerer; holds ids only
    poller     one poll of the provider for all triggers of a connection
    kill       cancels for a task that was killed, and not for one that only seems to be
    abandoned  cancels for tasks that were killed while nobody could hear of it
    holder     a task instance -> the name under which it waits for a job run, and back
    progress   what the log of a deferred task says, each time that something has changed
    manifest   a job run's status -> XCom, asset event, task state
    asset      a job run that is over -> the asset events of its task
    deadline   PartitionEnd: what a DeadlineAlert counts from
    notifier   KeldLateNotifier: notifies people which job runs are late
    link       KeldBatchLink: the batch's page at its provider
    report     KeldReportOperator: writes a page about all job runs, and links to it
    testing    run_task and emulated_time: Dags in the tests of users, without waiting
    plugin     registers PartitionEnd with Airflow's scheduler
    provider   registers all the others with Airflow
    example_dags/  small Dags to copy from
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keld_airflow.deadline import PartitionEnd
    from keld_airflow.hook import KeldHook
    from keld_airflow.notifier import KeldLateNotifier
    from keld_airflow.operator import KeldBatchOperator
    from keld_airflow.report import KeldReportOperator
    from keld_airflow.sensor import KeldJobSensor
    from keld_airflow.trigger import KeldTrigger

__all__ = ["KeldBatchOperator", "KeldHook", "KeldJobSensor", "KeldLateNotifier", "KeldReportOperator", "KeldTrigger", "PartitionEnd"]

# Imported at their first use: every Airflow process asks this package what it provides.
_HOMES = {
    "KeldBatchOperator": "operator",
    "KeldHook": "hook",
    "KeldJobSensor": "sensor",
    "KeldLateNotifier": "notifier",
    "KeldReportOperator": "report",
    "KeldTrigger": "trigger",
    "PartitionEnd": "deadline",
}


if not TYPE_CHECKING:  # a type checker that saw this function would take any misspelt name for an object of type Any

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'keld_airflow' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"keld_airflow.{home}"), name)
