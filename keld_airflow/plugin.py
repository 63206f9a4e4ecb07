"""Plugin: tells Airflow's scheduler and API server of `PartitionEnd`, which they meet in serialised Dags.

Loaded by every Airflow process, by its entry point: those that a provider names are not loaded where providers are found lazily.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from keld_airflow.deadline import PartitionEnd


class KeldPlugin(AirflowPlugin):
    """What a provider package cannot register itself."""

    name = "keld"
    deadline_references = [PartitionEnd]  # noqa: RUF012  as Airflow declares it
