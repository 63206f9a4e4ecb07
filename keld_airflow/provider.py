"""Provider: registers hook, connection form, operator, sensor, decorator, trigger, link, notifier and settings with Airflow.

Every Airflow process reads it by its entry point, before anything else of this package is imported.  No key is kept in an extra field: Airflow
hides the value of such a field in its API only if its name says that it is secret.
"""

from __future__ import annotations

from typing import Any

from keld import __version__, kinds

_NAME = "Keld"
_PAGE = "https://pypi.org/project/keld/"  # shows the README, and links to the documentation


def get_provider_info() -> dict[str, Any]:
    """The description that Airflow's provider manager reads."""
    return {
        "package-name": "keld",
        "name": _NAME,
        "description": "LLM batch inference over the partitions of tables: a deadline, a ceiling price, no row lost, no row paid twice.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": _NAME,
                "external-doc-url": _PAGE,
                "how-to-guide": ["/docs/how-to/airflow.md", "/docs/how-to/backfills.md"],
                "tags": ["service"],
            }
        ],
        "operators": [{"integration-name": _NAME, "python-modules": ["keld_airflow.operator", "keld_airflow.report"]}],
        "sensors": [{"integration-name": _NAME, "python-modules": ["keld_airflow.sensor"]}],
        "hooks": [{"integration-name": _NAME, "python-modules": ["keld_airflow.hook"]}],
        "triggers": [{"integration-name": _NAME, "python-modules": ["keld_airflow.trigger"]}],
        "connection-types": [_connection_type()],
        "extra-links": ["keld_airflow.link.KeldBatchLink", "keld_airflow.report.KeldReportLink"],
        "notifications": ["keld_airflow.notifier.KeldLateNotifier"],
        "task-decorators": [{"name": "keld_batch", "class-name": "keld_airflow.decorator.keld_batch_task"}],
        "config": {"keld": {"description": "Where Keld keeps its ledger and its files.", "options": _options()}},
    }


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": "keld",
        "hook-class-name": "keld_airflow.hook.KeldHook",
        "hook-name": "Keld",
        "ui-field-behaviour": FIELD_BEHAVIOUR,
        "conn-fields": CONNECTION_FIELDS,
    }


def _field(label: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": schema or {"type": ["string", "null"]}}


FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema", "port", "login"],
    "relabeling": {"password": "API key", "host": "Base URL"},
    "placeholders": {"host": "https://api.openai.com/v1"},
}

CONNECTION_FIELDS: dict[str, Any] = {
    "provider": _field(
        "Provider",
        "Whose API the base URL speaks. What else its account needs, e.g. a region, goes into the extra as JSON, by its name.",
        type="string",
        enum=list(kinds()),
        default="openai",
    ),
    "account": _field("Account", "The name before the colon in a job's models. Default: the provider."),
    "more_accounts": _field("More accounts", "Other connections of type Keld that jobs may use too, separated by commas."),
    "ledger_conn_id": _field("Ledger connection", "A Postgres connection. Default: ledger_url in [keld] of airflow.cfg."),
    "home": _field("Home", "Directory of staging, shared by all workers. Default: home in [keld] of airflow.cfg."),
    "namespace": _field("Namespace", "Keeps several teams apart in one ledger. Default: namespace in [keld] of airflow.cfg."),
}
"""The form of a connection.  Its extra may also have the fields of an account of its kind (`keld.account_fields`), which no form shows, because most
are of one kind alone; the hook refuses any other."""


def _options() -> dict[str, Any]:
    return {
        "home": _option(
            "Directory of staging, and of the ledger if it is a file; shared by all workers. Default: KELD_HOME, else $AIRFLOW_HOME/keld."
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
