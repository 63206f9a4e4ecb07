"""Provider: tells Airflow of the hook, its connection form, operator, sensor, decorator, trigger, link, notifier and settings.

Read by every Airflow process, by its entry point, and before anything else of this package is imported.  The names of the fields are not free: Airflow
hides the value of an extra field in its API only where the name says that it is secret, so no key is kept in one.
"""

from __future__ import annotations

from typing import Any

_NAME = "Keld"


def get_provider_info() -> dict[str, Any]:
    """What Airflow's provider manager wants to know."""
    return {
        "package-name": "keld",
        "name": _NAME,
        "description": "LLM batch inference over the partitions of tables: a deadline, a ceiling price, no row lost, no row paid twice.",
        "integrations": [{"integration-name": _NAME, "tags": ["service"]}],
        "operators": [{"integration-name": _NAME, "python-modules": ["keld_airflow.operator"]}],
        "sensors": [{"integration-name": _NAME, "python-modules": ["keld_airflow.sensor"]}],
        "hooks": [{"integration-name": _NAME, "python-modules": ["keld_airflow.hook"]}],
        "triggers": [{"integration-name": _NAME, "python-modules": ["keld_airflow.trigger"]}],
        "connection-types": [_connection_type()],
        "extra-links": ["keld_airflow.link.KeldBatchLink"],
        "notifications": ["keld_airflow.notifier.KeldLateNotifier"],
        "task-decorators": [{"name": "keld_batch", "class-name": "keld_airflow.decorator.keld_batch_task"}],
        "config": {"keld": {"description": "Where Keld keeps what it must not forget.", "options": _options()}},
    }


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": "keld",
        "hook-class-name": "keld_airflow.hook.KeldHook",
        "hook-name": "Keld",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "port", "login"],
            "relabeling": {"password": "API key", "host": "Base URL"},
            "placeholders": {"host": "https://api.openai.com/v1"},
        },
        "conn-fields": {
            "provider": _field("Provider: whose wire the base URL speaks", type="string", enum=["openai", "anthropic"], default="openai"),
            "account": _field("Name before the colon in a job's models; default: the provider"),
            "more_accounts": _field("Other connections of type keld whose accounts jobs may use, too"),
            "ledger_conn_id": _field("Postgres connection of the ledger; default: [keld] ledger_url"),
            "home": _field("Directory of staging, shared by all workers; default: [keld] home"),
            "namespace": _field("Keeps several teams apart in one ledger"),
        },
    }


def _field(label: str, **schema: Any) -> dict[str, Any]:
    return {"label": label, "schema": schema or {"type": ["string", "null"]}}


def _options() -> dict[str, Any]:
    return {
        "home": _option(
            "Directory of staging, and of the ledger where that is a file; shared by all workers. Default: KELD_HOME, else $AIRFLOW_HOME/keld."
        ),
        "ledger_url": _option(
            "sqlite:///PATH, or postgresql://..., which every executor but LocalExecutor needs. Default: a file in `home`.", sensitive=True
        ),
        "namespace": _option("Keeps several teams apart in one ledger."),
    }


def _option(description: str, *, sensitive: bool = False) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": None,
        "default": None,
        "sensitive": sensitive,
    }
