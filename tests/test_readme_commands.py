"""The README's commands and its Python, run as they stand, by a newcomer with one table and an emulated provider."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keld.emulator import Emulator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
JOBS = """
from typing import Literal

from pydantic import BaseModel

from keld import Job


class Label(BaseModel):
    category: Literal["billing", "bug", "account", "other"]
    urgent: bool


labels = Job(name="ticket_labels", key="ticket_id", prompt="Classify:\\n\\n{body}", output_type=Label, models="openai:gpt-5-mini", tags={"team": "support"})
"""


@pytest.fixture
def newcomer(tmp_path: Path, open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the jobs and the table that the README speaks of; what `keld emulate` prints is in the environment."""
    open_emulator(frozen=False, latency_s=1)
    for name in [name for name in os.environ if name.startswith("KELD_")]:
        monkeypatch.delenv(name)
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "tickets").mkdir()
    table = pa.table({"ticket_id": ["t-1", "t-2"], "body": ["The invoice is wrong.", "The printer is on fire."]})
    pq.write_table(table, tmp_path / "tickets" / "2026-11-19.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return tmp_path


def _section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def _commands() -> list[str]:
    console = re.search(r"```console\n(.*?)```", _section("On the command line"), re.DOTALL)
    assert console is not None
    return [line.removeprefix("$ ").partition("   #")[0].strip() for line in console[1].splitlines() if line.startswith("$ ")]


def test_every_command_of_the_readme_does_what_it_says(newcomer: Path) -> None:
    """In their order, in one directory.  The packages are there already, and so is an emulator, at another port than the one a person takes."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ran = []
    for command in _commands():
        words = shlex.split(command)
        if words[:2] == ["pip", "install"]:
            assert set(re.findall(r"\[(.*?)\]", words[2])[0].split(",")) <= set(extras)
        elif words[0] == "export":
            assert {word.partition("=")[0] for word in words[1:]} <= set(os.environ), command
        elif words[:2] != ["keld", "emulate"]:
            done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            ran.append(words[1])
    assert ran == ["plan", "run", "status", "prices", "spend"]
    assert pq.read_table(newcomer / "labels" / "2026-11-19.parquet")["keld_outcome"].to_pylist() == ["answered"] * 2


def test_every_command_in_the_readmes_prose_takes_its_options() -> None:
    from typer.main import get_command

    from keld.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    found = re.findall(r"`keld (\w+)([^`]*)`", README)
    assert found
    for name, rest in found:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest)) <= known, f"keld {name}{rest}"


def test_the_python_of_the_readme_runs(newcomer: Path) -> None:
    python = re.search(r"```python\n(.*?)```", _section("In Python"), re.DOTALL)
    assert python is not None
    names: dict[str, object] = {"tickets_frame": pq.read_table(newcomer / "tickets" / "2026-11-19.parquet").to_pandas()}
    exec(JOBS, names)
    exec(python[1], names)
    assert pq.read_table(newcomer / "labels" / "2026-11-19.parquet").num_rows == 2
