"""Declaration: where the user's Job is, and how it is loaded."""

from __future__ import annotations

import runpy
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from keld.errors import InvalidJob, KeldError
from keld.job import Job


def load_job(where: str) -> Job:
    """The Job that `jobs.py:labels` or `package.module:labels` names.

    Raises:
        InvalidJob: there is no such file, module or Job, or it cannot be loaded.
    """
    place, _, name = where.rpartition(":")
    if not place or not name:
        raise InvalidJob(f"{where!r}: say where the Job is and its name, e.g. jobs.py:labels. Nothing was sent.")
    found = _names_in(place).get(name)
    if not isinstance(found, Job):
        raise InvalidJob(f"{place} has no Job named {name!r}. Nothing was sent. It must be a module-level `{name} = Job(...)`.")
    return found


def _names_in(place: str) -> dict[str, Any]:
    """The names that the user's file or module defines.  An error in it is reported with its file and line, without Keld's frames."""
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise InvalidJob(f"There is no file {place}. Nothing was sent.")
    sys.path.insert(0, str(Path(place).resolve().parent) if is_file else str(Path.cwd()))
    try:
        return runpy.run_path(place) if is_file else vars(import_module(place))
    except KeldError:
        raise
    except Exception as error:  # noqa: BLE001  the user's file may raise anything; it is reported in one line
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise InvalidJob(
            f"{place} cannot be loaded: {type(error).__name__}: {error} ({last.filename}, line {last.lineno}). Nothing was sent."
        ) from None
