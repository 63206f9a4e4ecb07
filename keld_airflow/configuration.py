"""Configuration: the section `[keld]` of Airflow's configuration, and the home that follows from it and from the environment.

For `hook`.  What is configured and cannot be read is refused: without it, Keld would go on with a ledger in which nothing of what was
sent is known, and would pay for it once more.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, conf


def setting(name: str) -> str | None:
    """The value of a setting; None if it is not set.

    Raises:
        AirflowFailException: `airflow.cfg` cannot be read there.
        AirflowException: the command or the secret that holds it gave nothing: a retry may help.
    """
    try:
        value = str(conf.get("keld", name, fallback=None) or "").strip()  # what a command prints ends with a line end
    except configparser.Error:
        raise AirflowFailException(
            f"Airflow cannot read {name} in the section [keld] of airflow.cfg. Nothing was sent. In that file a % is written %%: p%%40ss for p%40ss."
        ) from None
    except Exception as error:  # noqa: BLE001  of a command or a secrets backend; its text may hold the secret
        raise AirflowException(f"{_source(name) or f'The setting {name}'} failed: {type(error).__name__}. Nothing was sent.") from None
    if not value and (source := _source(name)) is not None:
        raise AirflowException(f"{source} gave nothing. Nothing was sent. Correct or remove it.")
    return value or None


def _source(name: str) -> str | None:
    """What says where a setting's value is, if a command or a secret holds it; None if none does, or if the value itself is there, too."""
    variable = f"AIRFLOW__KELD__{name.upper()}"
    if variable in os.environ:
        return None
    for kind in ("cmd", "secret"):
        if f"{variable}_{kind.upper()}" in os.environ:
            return f"The environment variable {variable}_{kind.upper()}"
        if conf.has_option("keld", f"{name}_{kind}"):
            return f"The setting {name}_{kind} in the section [keld] of airflow.cfg"
    return None


def home_of(given: str | None) -> Path:
    """The directory of staging, and of a ledger that is a file: as given by a connection, else by `[keld]`, KELD_HOME or AIRFLOW_HOME.

    Raises:
        AirflowFailException: it depends on the working directory, which differs between Airflow's processes, and so would the ledger.
    """
    named = {"home of the connection": given, "home in [keld] of Airflow's configuration": setting("home")}
    named |= {name: os.environ.get(name) for name in ("KELD_HOME", "AIRFLOW_HOME")}
    says, place = next(((name, value) for name, value in named.items() if value), ("AIRFLOW_HOME", "~/airflow"))
    expanded = os.path.expanduser(os.path.expandvars(place))  # as Airflow reads its own: nobody does it for a variable in a file
    if not os.path.isabs(expanded):
        raise AirflowFailException(
            f"The {says} is {place!r}, which is another directory, and another ledger, in each of Airflow's processes. Nothing was sent. "
            "Write the whole path."
        )
    return Path(expanded) / "keld" if says == "AIRFLOW_HOME" else Path(expanded)
