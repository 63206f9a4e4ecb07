"""Code reference: the line of the user's file that declares a pair of assets, as Dagster's `dagster/code_references`.

Dagster's own `with_source_code_references` would point to the function of this package that runs; `link_code_references_to_git` works on these.
"""

from __future__ import annotations

import inspect
import os
import warnings
from pathlib import Path
from typing import Any

import dagster as dg

_HERE = str(Path(__file__).parent) + os.sep
_DAGSTER = str(Path(dg.__file__).parent) + os.sep


def code_reference() -> dict[str, Any]:
    """The metadata that names the caller outside of this package; empty if that is in no file (an interactive session), or Dagster (a component)."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_DAGSTER) or not os.path.isfile(frame.f_code.co_filename):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # code references are in beta; each user's load need not say so
        line = dg.LocalFileCodeReference(file_path=os.path.abspath(frame.f_code.co_filename), line_number=frame.f_lineno)
        return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[line])}
