"""The house: what its documents say is so.  Map, changelog and import rules are held against the code; README and docs/: `test_documents`."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from importlib import import_module
from inspect import cleandoc
from pathlib import Path

import pytest

import keld
from keld.job import Job
from keld.providers.kinds import BUILT_IN
from tests.chaos.test_crash import KILLED_AT
from tests.faults.case import KINDS
from tests.support.ticket_job import PEERS

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in ("keld", "keld_airflow", "keld_dagster") for path in (ROOT / package).rglob("*.py"))
CORE = [path for path in MODULES if path.parent == ROOT / "keld" and path.name != "__init__.py"]
EMULATOR = [path for path in MODULES if path.is_relative_to(ROOT / "keld/emulator")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = (
    "openai",
    "anthropic",
    "pyarrow",
    "sqlalchemy",
    "airflow",
    "dagster",
    "pydantic",
    "numpy",
    "pandas",
    "starlette",
    "httpx2",
    "fsspec",
    "genai_prices",
)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _header(path: Path) -> str:
    return ast.get_docstring(_tree(path)) or ""


@cache
def _imports(path: Path) -> list[str]:
    """The names of the modules a file imports, wherever in it."""
    return list(_imported(_tree(path)))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def _python(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ended.stdout.strip()


# --- the map ----------------------------------------------------------------------------------------------------------


def test_the_map_names_every_room_and_only_those() -> None:
    named = re.findall(r"^ {4}([a-z_0-9]+/?) {2,}\S", keld.__doc__ or "", re.MULTILINE)
    rooms = {path.stem for path in CORE} | {f"{path.parent.name}/" for path in (ROOT / "keld").glob("*/__init__.py")}
    assert Counter(named) == Counter(rooms)


def test_every_module_says_what_it_holds() -> None:
    assert [_name(path) for path in MODULES if not re.match(r"\S.*[.:\]`]", _header(path).partition("\n")[0])] == []


def test_a_core_module_begins_with_its_name() -> None:
    assert [_name(path) for path in CORE if _header(path).partition(":")[0].lower() != path.stem] == []


def test_every_error_is_raised_somewhere() -> None:
    errors = [node.name for node in ast.walk(ast.parse((ROOT / "keld/errors.py").read_text())) if isinstance(node, ast.ClassDef)]
    code = "\n".join(path.read_text() for path in MODULES if path.name != "errors.py")
    assert [
        name
        for name in errors
        if name not in ("KeldError", "ProviderError") and not re.search(rf"(raise|return) {name}\(|\b{name}\b, ", code)
    ] == []


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


@pytest.mark.share(5)
@pytest.mark.parametrize("command", ["status", "status --json", "spend", "spend --by model --json", "cancel nothing"])
def test_a_command_that_only_reads_the_ledger_loads_no_sdk_table_library_or_http_client(command: str, tmp_path: Path) -> None:
    """People type it many times a day, and schedulers call it; pyarrow, pandas and the SDKs are two seconds of every call."""
    code = (
        f"import os, sys, keld.cli; os.environ['KELD_HOME'] = {str(tmp_path)!r}; sys.argv = ['keld', *{command.split()!r}]\n"
        "try: keld.cli.main()\nexcept SystemExit: pass\n"
    )
    unwanted = set(HEAVY) - {"sqlalchemy", "pydantic"}  # the ledger's; typer's
    assert _python(f"{code}print('loaded', [name for name in {unwanted!r} if name in sys.modules])").endswith("loaded []")


@pytest.mark.parametrize("host", ["https://api.openai.com", "https://api.anthropic.com", "https://llm.example"])
def test_the_link_to_a_batch_is_found_without_an_sdk(host: str) -> None:
    """A status shows it for every batch."""
    code = f"import sys; from keld.providers.kinds import batch_page; batch_page({host!r}, 'b1')"
    assert _python(f"{code}; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]"


def test_an_environment_that_was_only_asked_for_its_job_runs_loads_no_sdk_table_library_or_http_client(tmp_path: Path) -> None:
    """Sensors and triggers do that in processes which live long and are many."""
    code = f"import sys; from keld import Keld; keld = Keld(home={str(tmp_path)!r}); keld.statuses(); keld.spend(); keld.find('labels')"
    assert _python(f"{code}; print([name for name in {set(HEAVY) - {'sqlalchemy'}!r} if name in sys.modules])") == "[]"


def test_the_import_rules_hold() -> None:
    ended = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2_000:]
    assert "0 broken" in ended.stdout


def test_the_emulator_imports_nothing_of_the_rest() -> None:
    """It is the other side of the wire: sharing code, both sides could agree on a mistake."""
    ours = [(_name(path), name) for path in EMULATOR for name in _imports(path) if name.partition(".")[0] == "keld"]
    assert [(path, name) for path, name in ours if not name.startswith("keld.emulator")] == []


def test_only_the_command_line_and_what_users_test_with_import_the_emulator() -> None:
    outside = set(MODULES) - set(EMULATOR)
    assert {path.name for path in outside if any(name.startswith("keld.emulator") for name in _imports(path))} <= {
        "command.py",
        "testing.py",
    }


PACKAGES = (
    "keld.audit",
    "keld.audit.formats",
    "keld.runner",
    "keld.cli",
    "keld.emulator",
    "keld.emulator.dialects",
    "keld.emulator.services",
    "keld.ledger",
    "keld.page",
    "keld.providers",
    "keld.providers.dialects",
    "keld.providers.presets",
    "keld.providers.transports",
    "keld.realtime",
    "keld.report",
    "keld.table",
    "keld_airflow",
    "keld_dagster",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_a_map_of_its_own(package: str) -> None:
    named = re.findall(r"^ {4}([a-z_0-9]+/?) {2,}\S", import_module(package).__doc__ or "", re.MULTILINE)
    folder = ROOT / package.replace(".", "/")
    rooms = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    assert Counter(named) == Counter(rooms | {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")})


VENDOR_ROOMS = {"__init__.py", "address.py", "kind.py"}


def test_the_emulator_names_a_vendor_in_its_dialects_and_services_only() -> None:
    """A third kind is one file or two: everything around it knows services and dialects, whoever's they are."""
    rooms = [path for path in EMULATOR if path.parent.name == "emulator" and path.name not in VENDOR_ROOMS]
    code = {_name(path): ast.unparse(_without_docstrings(ast.parse(path.read_text()))) for path in rooms}
    assert [(path, named) for path in code for named in re.findall(r"(?i)openai|anthropic|gpt|claude", code[path])] == []


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))] or [
                ast.Pass()
            ]
    return tree


def test_an_orchestrators_package_imports_the_front_door_only() -> None:
    theirs = [path for path in MODULES if path.parts[-2] in ("keld_airflow", "keld_dagster")]
    behind = [(_name(path), name) for path in theirs for name in _imports(path) if name.startswith("keld.")]
    assert [(path, name) for path, name in behind if not (path.endswith("/testing.py") and name == "keld.emulator")] == []


def test_what_is_private_in_dagster_is_imported_in_one_guarded_place() -> None:
    """A name that moves in a later version may cost the hold runs, never the import of the package."""
    found = []
    for path in (ROOT / "keld_dagster").glob("*.py"):
        tree = ast.parse(path.read_text())
        typed = {id(inner) for node in tree.body if isinstance(node, ast.If) for inner in ast.walk(node)}
        loading = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dagster._") and id(node) not in typed:
                found.append((path.name, id(node) in loading))
    assert set(found) == {("hold.py", False)}


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


# --- tests ------------------------------------------------------------------------------------------------------------

TESTS = ROOT / "tests"
LAYERS = set(re.findall(r"^\| \[([a-z]+)/\]\(\1\) \|", (TESTS / "README.md").read_text(), re.MULTILINE))
SERVERS = {"emulator", "open_emulator", "keld", "open_keld", "ledger_url", "postgres", "peer"}  # fixtures of tests/conftest.py


def test_every_test_lies_in_a_layer_that_the_readme_of_the_tests_names() -> None:
    assert {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")} == LAYERS


def test_a_unit_test_starts_no_server() -> None:
    """So the layer stays quick, and a failure there is a failure of one file."""
    for path in sorted((TESTS / "unit").glob("test_*.py")):
        functions = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef)]
        fixtures = {argument.arg for function in functions if function.name.startswith("test_") for argument in function.args.args}
        assert fixtures & SERVERS == set(), path
        assert [name for name in _imports(path) if name.startswith(("keld.emulator", "moto", "tests."))] == [], path


def test_a_support_module_begins_with_its_name() -> None:
    modules = (TESTS / "support").glob("[a-z]*.py")
    assert [path.stem for path in modules if _header(path).partition(":")[0].lower().replace(" ", "_") != path.stem] == []


# --- documents --------------------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["version"] == keld.__version__
    assert re.search(rf"^## \[?{re.escape(keld.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_a_job_documents_each_of_its_fields() -> None:
    documented = set(re.findall(r"^ {4}([a-z_, ]+):", cleandoc(Job.__doc__ or ""), re.MULTILINE))  # Python 3.13 takes the indent away
    assert {name for names in documented for name in names.split(", ")} == {field.name for field in fields(Job)}


def test_every_price_of_our_own_says_where_and_when_it_was_read() -> None:
    table = tomllib.loads((ROOT / "keld/prices.toml").read_text())
    assert table
    assert all(section["source"] and section["read"] and section["models"] for section in table.values())
    assert "https://github.com/BerriAI/litellm" in (ROOT / "keld/prices.toml").read_text()


# --- every kind ------------------------------------------------------------------------------------------------------


def test_every_kind_with_batches_of_its_own_is_in_the_table_of_faults_and_is_killed() -> None:
    """A kind that was forgotten in one of the lists would be promised and not tested."""
    assert set(KINDS) == set(PEERS) == {peer.name for peer in KILLED_AT}


def test_the_readme_names_every_kind() -> None:
    table = (ROOT / "README.md").read_text().partition("## Whose models")[2].partition("\n## ")[0]
    assert set(BUILT_IN) <= set(re.findall(r"`([a-z_]+)`", table))


# --- the workflow ------------------------------------------------------------------------------------------------------


def test_the_workflow_runs_every_python_that_the_metadata_names() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    named = re.findall(r"Python :: (3\.\d+)\b", "\n".join(PROJECT["project"]["classifiers"]))
    assert re.findall(r'"(3\.\d+)"', workflow) == named
    assert "run: .ci/run" in workflow
    assert all(re.search(r"@[0-9a-f]{40} # v\d", line) for line in workflow.splitlines() if "uses:" in line)
