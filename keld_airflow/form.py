"""Form: the form of a connection as Airflow 3.1 asks for it, by the hook's methods; a later Airflow reads `provider` without importing the hook.

Both forms have the same fields.  `wtforms` is what Airflow's API server makes fields of, or a stand-in of its own; Keld does not depend on it.
"""

from __future__ import annotations

from typing import Any

from keld_airflow.provider import CONNECTION_FIELDS, FIELD_BEHAVIOUR


def form_widgets() -> dict[str, Any]:
    """The fields of a connection's extra, by their names."""
    from wtforms import StringField
    from wtforms.validators import Optional, any_of

    def field(label: str, description: str, schema: dict[str, Any]) -> Any:
        checks = [any_of(schema["enum"])] if "enum" in schema else [Optional()]
        return StringField(label, validators=checks, description=description, default=schema.get("default"))

    return {name: field(**given) for name, given in CONNECTION_FIELDS.items()}


def field_behaviour() -> dict[str, Any]:
    """Which of Airflow's own fields are hidden, and what the others are called."""
    return {name.replace("-", "_"): value for name, value in FIELD_BEHAVIOUR.items()}
