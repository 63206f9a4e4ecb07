"""Forked command: what a user starts as `keld ...` or `python FILE`, in a process that is forked where everything is imported already.

The seconds of imports, and of waits between two looks (`short_waits`), are all that it leaves out; `tests/edges/test_cli.py` and `test_wheel.py` start the command itself.
"""

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from keld.cli import main
from tests.support import short_waits
from tests.support.worker_process import server


def ended(words: Sequence[str], said: Path) -> int | None:
    """The exit status of a command that has the environment and the working directory of this process.

    Args:
        words: `keld` and its arguments, or `python`, a file and its arguments.
        said: the file that takes what it prints and what it raises.
    """
    process = server().Process(target=_run, args=(words, dict(os.environ), Path.cwd(), said))
    process.start()
    process.join(300)
    return process.exitcode


def _run(words: Sequence[str], env: Mapping[str, str], folder: Path, said: Path) -> None:
    with said.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    short_waits.shorten(pytest.MonkeyPatch())
    if words[0] == "keld":
        sys.argv = list(words)
        main()
    else:
        sys.argv = list(words[1:])
        sys.path.insert(0, str(Path(words[1]).parent))
        runpy.run_path(words[1], run_name="__main__")
