"""Plugin: registers `PartitionEnd` with Airflow's scheduler and API server, which read it in serialised Dags.

Every Airflow process loads it by its entry point: plugins that a provider names are not loaded by processes that find providers lazily.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


def _references() -> list[type]:
    if not hasattr(AirflowPlugin, "deadline_references"):  # Airflow 3.1 has no references but its own
        return []
    from keld_airflow.deadline import PartitionEnd

    return [PartitionEnd]


class KeldPlugin(AirflowPlugin):
    """What a provider package cannot register itself."""

    name = "keld"
    deadline_references = _references()
