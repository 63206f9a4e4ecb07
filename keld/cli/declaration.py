"""Declaration: where the user's Job is, and how it is loaded.

What the user's code prints goes to standard error: standard output may be one JSON document.
"""

from __future__ import annotations

import runpy
import sys
import traceback
from contextlib import redirect_stdout
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
        with redirect_stdout(sys.stderr):
            return runpy.run_path(place) if is_file else vars(import_module(place))
    except KeldError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  the user's file may raise anything; it is reported in one line
        raise InvalidJob(
            f"{place} cannot be loaded: {type(error).__name__}: {error}{_where(error)}. Nothing was sent.{_advice(place, error)}"
        ) from None


def _where(error: BaseException) -> str:
    """The file and the line of the user's that raised an error, in brackets; "" if there is none, or the message names it."""
    lines = [line for line in traceback.extract_tb(error.__traceback__) if not line.filename.startswith("<frozen ")]
    raised = lines[-1] if lines and lines[-1].filename != __file__ else None
    return "" if raised is None or isinstance(error, SyntaxError) else f" ({raised.filename}, line {raised.lineno})"


def _advice(place: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == place and "/" in place:
        return f" To load a file, write its whole name: {place}.py:NAME."
    if isinstance(error, ImportError) and "relative import" in str(error) and place.endswith(".py"):
        parts = Path(place).with_suffix("").parts
        return f" To load a module of a package, name it from the directory above the package: {'.'.join(part for part in parts if part != '.')}:NAME."
    return ""
