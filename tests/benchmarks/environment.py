"""Environment: a virtual environment for one tool, with pinned versions, made once and kept; Keld's own as its users install it, without extras."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class NotInstalled(Exception):
    """Why there is no such environment, for people."""


def python_of(home: Path, name: str, packages: Sequence[str]) -> Path:
    """The interpreter of an environment that has `packages`.

    Raises:
        NotInstalled: they cannot be installed here.
    """
    folder = home / name
    python, wanted = folder / "bin" / "python", "\n".join(packages)
    noted = folder / "wanted.txt"
    if noted.exists() and noted.read_text() == wanted:
        return python
    uv = str(Path(sys.executable).with_name("uv"))
    for step in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *packages],
    ):
        try:
            subprocess.run(step, check=True, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            raise NotInstalled(said[-1] if said else type(error).__name__) from None
    noted.write_text(wanted)
    return python
