"""The house: what its documents say is so.  Map, README, changelog and import rules are held against the code."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

import keld
from keld.job import Job

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for package in ("keld", "keld_airflow", "keld_dagster") for path in (ROOT / package).rglob("*.py"))
CORE = [path for path in MODULES if path.parent == ROOT / "keld" and path.name != "__init__.py"]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = ("openai", "anthropic", "pyarrow", "sqlalchemy", "airflow", "dagster", "pydantic", "numpy", "pandas", "starlette")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _imports(path: Path) -> Iterator[str]:
    """The names of the modules a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def _python(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.strip()


# --- the map ----------------------------------------------------------------------------------------------------------


def test_the_map_names_every_room_and_only_those() -> None:
    named = re.findall(r"^ {4}([a-z_]+/?) {2,}\S", keld.__doc__ or "", re.MULTILINE)
    rooms = {path.stem for path in CORE} | {f"{path.parent.name}/" for path in (ROOT / "keld").glob("*/__init__.py")}
    assert Counter(named) == Counter(rooms)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_module_says_what_it_holds(path: Path) -> None:
    header = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert re.match(r"\S.*[.:\]`]", header.splitlines()[0] if header else "")


@pytest.mark.parametrize("path", CORE, ids=_name)
def test_a_core_module_begins_with_its_name(path: Path) -> None:
    header = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert header.partition(":")[0].lower() in (path.stem, {"cli": "command line"}.get(path.stem))


def test_every_error_is_raised_somewhere() -> None:
    errors = [node.name for node in ast.walk(ast.parse((ROOT / "keld/errors.py").read_text())) if isinstance(node, ast.ClassDef)]
    code = "\n".join(path.read_text() for path in MODULES if path.name != "errors.py")
    assert [name for name in errors if name != "KeldError" and not re.search(rf"(raise|return) {name}\(|\b{name}\b, ", code)] == []


# --- imports ----------------------------------------------------------------------------------------------------------


def test_import_keld_loads_nothing_heavy() -> None:
    """An orchestrator imports it in every process; the SDKs alone take a second."""
    assert _python(f"import sys, keld; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]"


def test_declaring_a_job_loads_nothing_heavy() -> None:
    code = "from keld import Job, Column, KeldError; Job(name='a', key='id', prompt='{b}', models='openai:m')"
    assert _python(f"import sys; {code}; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]"


def test_the_help_of_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, keld.cli; sys.argv = ['keld', '--help']\ntry: keld.cli.main()\nexcept SystemExit: pass\n"
    assert _python(f"{code}print([name for name in {HEAVY!r} if name in sys.modules])").endswith("[]")


def test_the_import_rules_hold() -> None:
    ended = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2_000:]
    assert "0 broken" in ended.stdout


@pytest.mark.parametrize("path", [path for path in MODULES if "emulator" in path.parts], ids=_name)
def test_the_emulator_imports_nothing_of_the_rest(path: Path) -> None:
    """It is the other side of the wire: sharing code, both sides could agree on a mistake."""
    assert [name for name in _imports(path) if name.partition(".")[0] == "keld" and not name.startswith("keld.emulator")] == []


def test_only_the_command_line_imports_the_emulator() -> None:
    outside = [path for path in MODULES if "emulator" not in path.parts]
    assert {path.name for path in outside if any(name.startswith("keld.emulator") for name in _imports(path))} <= {"cli.py"}


@pytest.mark.parametrize(
    "package",
    ["keld.providers", "keld.providers.dialects", "keld.providers.transports", "keld.table", "keld_airflow", "keld_dagster"],
)
def test_a_package_has_a_map_of_its_own(package: str) -> None:
    named = re.findall(r"^ {4}([a-z_]+) {2,}\S", import_module(package).__doc__ or "", re.MULTILINE)
    folder = ROOT / package.replace(".", "/")
    assert Counter(named) == Counter(path.stem for path in folder.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[-2] in ("keld_airflow", "keld_dagster")], ids=_name)
def test_an_orchestrators_package_imports_the_front_door_only(path: Path) -> None:
    assert [name for name in _imports(path) if name.startswith("keld.")] == []


def test_what_airflow_asks_of_every_process_loads_nothing_heavy() -> None:
    """Its provider manager calls it at each start of each component."""
    code = "import sys, keld_airflow.provider as p; p.get_provider_info()"
    assert _python(f"{code}; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]"


@pytest.mark.parametrize("package", ["keld", "keld.emulator", "keld_dagster"])
def test_everything_public_can_be_imported(package: str) -> None:
    module = import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_what_is_public_for_type_checkers_is_what_is_public() -> None:
    """They read the block under TYPE_CHECKING, Python reads `__getattr__`."""
    block = next(node for node in ast.parse((ROOT / "keld/__init__.py").read_text()).body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(keld.__all__) - {"__version__"}


# --- failpoints -------------------------------------------------------------------------------------------------------


def test_every_failpoint_has_a_name_of_its_own() -> None:
    """A plan that names two places tests neither."""
    found = [name for path in MODULES for name in re.findall(r'failpoint\(f?"([^"]+)"\)', path.read_text())]
    assert [name for name, count in Counter(found).items() if count > 1] == []
    assert [name for name in found if not re.fullmatch(r"[a-z_{}.]+\.[a-z_]+", name)] == []


def test_a_file_of_staging_is_written_under_a_failpoint_of_its_own() -> None:
    found = [name for path in MODULES for name in re.findall(r'"(staging\.[a-z]+)"', path.read_text())]
    assert found
    assert len(found) == len(set(found))


# --- documents --------------------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == keld.__version__
    assert re.search(rf"^## \[?{re.escape(keld.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def _commands() -> dict[str, Any]:
    from keld.cli import app

    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_command_in_the_readme_exists_with_its_options() -> None:
    commands = _commands()
    for name, rest in re.findall(r"^\$ keld +(\w+)([^#\n]*)", README, re.MULTILINE):
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= known


def test_every_command_is_in_the_readme() -> None:
    assert [name for name in _commands() if f"keld {name}" not in re.sub(r" +", " ", README)] == []


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:\$ |`)make ([\w-]+)", README)) <= targets


def test_the_python_in_the_readme_imports_what_there_is() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    ours = [
        node
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and "keld" in (node.module or "")
    ]
    for node in ours:
        module = import_module(node.module or "")
        assert [alias.name for alias in node.names if alias.name not in module.__all__] == []


def test_the_python_in_the_readme_declares_jobs_by_fields_there_are() -> None:
    known = {field.name for field in fields(Job)}
    calls = [
        node
        for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call)
    ]
    given = [keyword.arg for node in calls if isinstance(node.func, ast.Name) and node.func.id == "Job" for keyword in node.keywords]
    assert given
    assert set(given) <= known


def test_every_link_in_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_environment_variable_in_the_readme_is_read() -> None:
    code = "\n".join(path.read_text() for path in MODULES)
    assert [name for name in set(re.findall(r"\bKELD_[A-Z_]+", README)) if name not in code] == []


def test_a_job_documents_each_of_its_fields() -> None:
    documented = set(re.findall(r"^ {8}([a-z_, ]+):", Job.__doc__ or "", re.MULTILINE))
    assert {name for names in documented for name in names.split(", ")} == {field.name for field in fields(Job)}


def test_every_price_of_our_own_says_where_and_when_it_was_read() -> None:
    table = tomllib.loads((ROOT / "keld/prices.toml").read_text())
    lanes = [lane for models in table.values() for lanes in models.values() for lane in lanes.values()]
    assert lanes
    assert all(lane["source"].startswith("https://") and lane["read"] and lane["input"] for lane in lanes)
