"""The commands and the Python of README and docs/, run page by page as they stand, by a newcomer in an empty directory, with an emulated provider.

A page's blocks run in its order and share one namespace.  Where a page speaks of the tutorial's files, they are there.  What starts a server, clones or
installs is not run: packages are looked up in pyproject.toml, and the emulator runs already, at another port than the one a person takes.
Pages that import Airflow or Dagster run with the tests of these (`tests/edges/airflow/test_example.py`, `tests/edges/dagster/test_readme.py`).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from keld.emulator import Emulator
from tests.support.documents import DOCS, PAGES, ROOT, Block, Command, blocks, commands, name
from tests.support.forked_command import ended

TUTORIAL = DOCS / "tutorial.md"
SLOW = {DOCS / "how-to" / "clouds.md"}  # a dozen processes
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
NOT_RUN = (
    "dagster",
    "dg",
    "make",
    ".ci/run",
    "mkdir",
    "gcloud",
)  # servers; what works on a project of dg; what sets up and tests the project; what the fixture has done; a log-in
FOLLOWED = "docs/add-a-provider.md"  # with its files in toml: by a test of the kinds of providers
PAGES_TO_RUN = [
    page
    for page in PAGES
    if any(block.language in ("python", "console") for block in blocks(page))
    and not re.search(r"^(?:from|import) (?:airflow|dagster)", page.read_text(), re.MULTILINE)
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the tutorial, with the tables that its first command makes."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "tickets").mkdir()
    for block in blocks(TUTORIAL):
        if block.title in ("make_tickets.py", "jobs.py"):
            (folder / block.title).write_text(block.text)
    subprocess.run([sys.executable, "make_tickets.py"], cwd=folder, check=True)
    shutil.copy(folder / "tickets" / "2026-11-19.parquet", folder / "tickets" / "2026-11-20.parquet")
    return folder


@pytest.fixture
def newcomer(files: Path, tmp_path: Path, open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files of the tutorial; what `keld emulate` prints is in the environment."""
    emulator = open_emulator(frozen=False, latency_s=0.5)
    for variable in [variable for variable in os.environ if variable.startswith("KELD_")]:
        monkeypatch.delenv(variable)
    for variable, value in emulator.env().items():  # also those that Keld alone reads
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("KELD_SELF_HOSTED_URL", emulator.url_of("openai_compatible"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    yield tmp_path
    sys.modules.pop("jobs", None)


@pytest.mark.share(3)
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=name(page), marks=pytest.mark.slow if page in SLOW else ()) for page in PAGES_TO_RUN if page != TUTORIAL],
)
def test_the_commands_and_the_python_of_a_page_run(newcomer: Path, page: Path) -> None:
    play(newcomer, page)


def test_the_tutorial_pays_for_what_has_changed_only(newcomer: Path) -> None:
    """It runs as it stands, and its promise is kept in the table that it leaves."""
    play(newcomer, TUTORIAL)
    rows = pq.read_table(newcomer / "labels" / "2026-11-19.parquet")
    assert rows["keld_outcome"].to_pylist() == ["answered"] * 201
    assert {"category", "urgent"} <= set(rows.column_names)


def play(newcomer: Path, page: Path) -> None:
    """Runs a page's blocks in their order."""
    names: dict[str, Any] = {}
    for block in blocks(page):
        match block.language:
            case "python" | "toml" if block.title is not None:
                (newcomer / block.title).write_text(block.text)
            case "python":
                exec(compile(block.text, name(page), "exec"), names)
            case "console":
                for command in commands(block):
                    run(newcomer, command)
            case _:
                pass


def run(newcomer: Path, command: Command) -> None:
    """Runs it in the newcomer's directory, and holds what the page shows of its output against what it prints: `...` stands for anything."""
    words = shlex.split(command.line)
    if words[:2] == ["pip", "install"]:
        for extras in re.findall(r"\[(.*?)\]", command.line):
            assert set(extras.split(",")) <= set(EXTRAS), command.line
    elif words[0] == "export":
        export(words[1:])
    elif next(word for word in words if "=" not in word) not in NOT_RUN and words[:2] != ["keld", "emulate"]:
        status, printed = ran(newcomer, command.line, words)
        assert status == 0, f"{command.line}\n{printed}"
        check_output(command.shown, printed)


def ran(newcomer: Path, line: str, words: list[str]) -> tuple[int | None, str]:
    """(exit status, what was printed) of a command; where it needs a shell, or an option of Python's, of what a user starts."""
    python_file = words[0] == "python" and words[1].endswith(".py")
    if set("|&;<>$`") & set(line) or not (words[0] == "keld" or python_file):
        done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False, timeout=300)
        return done.returncode, done.stderr + done.stdout
    said = newcomer / ".said"
    said.unlink(missing_ok=True)
    return ended(words, said), said.read_text()


def export(given: list[str]) -> None:
    """The variables of the emulator are set, to its real port; others belong to places that no test has."""
    for word in given:
        variable = word.partition("=")[0]
        assert variable in os.environ or variable in (DOCS / "reference" / "environment.md").read_text(), word


def check_output(shown: tuple[str, ...], printed: str) -> None:
    """Each line that is shown is printed, in this order."""
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    at = 0
    for line in shown:
        if line.strip() not in ("", "..."):
            wanted = re.compile(".*?".join(re.escape(" ".join(part.split())) for part in line.split("...")))
            found = next((n for n, one in enumerate(lines[at:], start=at) if wanted.search(one)), None)
            assert found is not None, f"{line!r} is not printed:\n{printed}"
            at = found + 1


def test_a_page_that_lies_is_found() -> None:
    check_output(("finished: ... rows", "...", "Cost $..."), "x finished: 200 of 200 rows\ny\nCost $1")
    with pytest.raises(AssertionError, match="is not printed"):
        check_output(("Cost $...", "finished"), "finished\nCost $1")


def test_every_block_of_code_is_run_by_some_test() -> None:
    """A block in another language would not be run."""
    languages = {block.language for page in PAGES for block in blocks(page)}
    assert languages <= {"", "python", "console", "toml", "yaml", "json"}
    assert {name(page) for page in PAGES if any(block.language == "json" for block in blocks(page))} == {
        "docs/how-to/airflow.md"
    }  # test_connection
    assert {name(page) for page in PAGES if any(block.language == "yaml" for block in blocks(page))} == {
        "docs/how-to/staging.md",
        "docs/how-to/dagster-component.md",
    }  # by test_manifest and test_component
    assert {name(page) for page in PAGES if any(block.language == "toml" for block in blocks(page))} == {FOLLOWED, "docs/how-to/audit.md"}
    run_elsewhere = {"README.md", "docs/how-to/airflow.md", "docs/how-to/airflow-2.md", "docs/how-to/dagster.md"}
    with_python = {name(page) for page in PAGES if any(block.language == "python" for block in blocks(page))}
    assert with_python - {name(page) for page in PAGES_TO_RUN} == run_elsewhere


def test_blocks_are_read_as_they_are_written() -> None:
    [first, *_] = [block for block in blocks(TUTORIAL) if block.title == "make_tickets.py"]
    assert isinstance(first, Block)
    assert first.text.startswith("import pyarrow")
