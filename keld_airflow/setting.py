"""Setting: the arguments that operator and sensor have in common, with the defaults of Airflow's own configuration."""

from __future__ import annotations

import os
from typing import Any, Literal, get_args

from airflow.providers.common.compat.sdk import conf

OnKill = Literal["cancel", "leave"]
COMPLETION_RATE = 0.99
_SECTION, _OPTION = "operators", "default_deferrable"
_VARIABLE = f"AIRFLOW__{_SECTION}__{_OPTION}".upper()


def default_deferrable() -> bool:
    """Airflow's `[operators] default_deferrable` where a person has set it in the environment, else True.

    Airflow's own default is False, for operators that wait for minutes; these wait for hours, and without a slot is what they are for.  A False
    in `airflow.cfg` says nothing: Airflow writes it there itself, into each new file.
    """
    return bool(conf.getboolean(_SECTION, _OPTION)) if _VARIABLE in os.environ else True


def check_switches(task_id: str, **given: Any) -> None:
    """Passes if each of these is True, False or None; they are no templates, and any text, "False" too, would count as True.

    Raises:
        ValueError: one is not.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, bool):
            raise ValueError(
                f"{task_id}: {name}={value!r} must be True or False, and is no template: it is needed while the Dag is parsed."
            )


def completion_rate_of(task_id: str, completion_rate: Any, fail_on_partial: bool | None) -> Any:
    """The least share of answered rows, by either of the two arguments that say it; the default if none does.

    Raises:
        ValueError: both do.
    """
    if fail_on_partial is None:
        return COMPLETION_RATE if completion_rate is None else completion_rate
    if completion_rate is not None:
        raise ValueError(f"{task_id}: completion_rate and fail_on_partial are both given, here or in default_args. Give one or the other.")
    return 1.0 if fail_on_partial else 0.0


def check_completion_rate(task_id: str, completion_rate: Any) -> None:
    """Passes if it is a share of the rows; at the end of the task, when it is needed, the rows are already paid for.

    Raises:
        ValueError: it is none.
    """
    if isinstance(completion_rate, bool) or not isinstance(completion_rate, int | float) or not 0 <= completion_rate <= 1:
        raise ValueError(
            f"{task_id}: completion_rate={completion_rate!r} is a share of the rows, from 0 to 1; {COMPLETION_RATE} is the default. Nothing was sent."
        )


def cancels(task_id: str, on_kill: Any) -> bool:
    """True for `cancel`, False for `leave`.

    Raises:
        ValueError: it is neither.
    """
    if on_kill not in get_args(OnKill):
        raise ValueError(f"{task_id}: on_kill={on_kill!r} is not one of {', '.join(get_args(OnKill))}.")
    return bool(on_kill == "cancel")
