"""README and docs/: what they say is so.  Links, names, variables and the reference are held against the code; `test_readme_commands` runs them."""

import ast
import inspect
import re
from dataclasses import MISSING, Field, fields
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union
from uuid import UUID

import pytest
import typer
from pydantic import create_model

import keld
from keld import Account, Job, Lane, Settings, errors
from keld.doctor import _VARIABLES
from keld.enrich import KELD_COLUMNS
from keld.outcome import Outcome
from keld.providers.kinds import BUILT_IN, preset_of
from keld.schema.output import output_schema
from keld.state import RunState, State
from tests.house.architecture import drawn, rooms
from tests.support import documents
from tests.support.documents import DOCS, PAGES, ROOT, anchors, blocks, links, name, paragraphs, prose, rendered, table

REFERENCE = DOCS / "reference"
MODULES = sorted(path for package in ("keld", "keld_airflow", "keld_dagster") for path in (ROOT / package).rglob("*.py"))
CODE = "\n".join(path.read_text() for path in MODULES)
TEXT = "\n".join(page.read_text() for page in PAGES)
PROMISED = {"docs/add-a-provider.md"}  # its steps are tested where they are written
ODD_WORDS = (
    "told",
    "anew",
    "wished",
    "heeds?",
    "mended",
    "reckon\\w*",
    "whoever",
    "besides",
    "dearer",
    "outlay",
    "harvest\\w*",
    "for ever",
    "lest",
)
LONGEST = 6 * 110  # characters: six lines of a page as GitHub shows it
LARGEST_PICTURE = 200_000


def _commands() -> dict[str, Any]:
    from keld.cli import app

    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def _word(cell: str) -> str:
    return re.sub(r"[`* ]", "", cell)


# --- to read ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_paragraph_is_longer_than_six_lines(page: Path) -> None:
    assert [paragraph for paragraph in paragraphs(page) if len(rendered(paragraph)) > LONGEST] == []


def test_the_readme_is_short() -> None:
    """It makes somebody want it; everything else is in docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        assert target.exists() or name(target) in PROMISED, path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, left = set[Path](), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page not in reached:
            reached.add(page)
            left += [target for path, _ in links(page) if (target := (page.parent / path).resolve()).suffix == ".md" and target.exists()]
    assert {name(page) for page in PAGES} - {name(page) for page in reached} == set()


def test_the_pictures_are_small_and_each_is_shown() -> None:
    pictures = sorted((DOCS / "images").iterdir())
    assert [picture.name for picture in pictures if picture.stat().st_size > LARGEST_PICTURE] == []
    assert [picture.name for picture in pictures if picture.name not in TEXT] == []


def test_the_glossary_is_sorted_and_has_each_word_once() -> None:
    words = [_word(row[0]) for row in table(DOCS / "glossary.md")]
    assert words == sorted(set(words))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_uses_plain_words(page: Path) -> None:
    """Words that a reader who is no native speaker stumbles over, or that are this house's own."""
    assert re.findall(rf"\b(?:{'|'.join(ODD_WORDS)})\b", prose(page), re.IGNORECASE) == []


# --- commands -----------------------------------------------------------------------------------------------------------


def test_every_command_that_is_named_takes_its_options() -> None:
    commands = _commands()
    shown = [
        command.line for page in PAGES for block in blocks(page) if block.language == "console" for command in documents.commands(block)
    ]
    found = re.findall(r"(?:^|[\s`;&])keld ([a-z]+)([^`|;&\n]*)", "\n".join([*shown, *re.findall(r"`(keld [^`]*)`", TEXT)]))
    assert found
    for command, rest in found:
        known = {option for parameter in commands[command].params for option in parameter.opts} | {"--help"}
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= known, f"keld {command}{rest}"


def test_every_command_is_documented() -> None:
    assert [command for command in _commands() if f"keld {command}" not in TEXT] == []


def test_every_make_target_that_is_named_exists_and_each_is_documented() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:\$ |`)make ([\w-]+)", TEXT)) == targets


# --- names --------------------------------------------------------------------------------------------------------------


def test_the_environment_variables_are_those_that_are_read() -> None:
    page = REFERENCE / "environment.md"
    documented = {_word(row[0]) for row in table(page)}
    read = "\n".join(path.read_text() for path in MODULES if "emulator" not in path.parts)  # it sets some, for tests
    ours = set(re.findall(r"\b(?:KELD|OPENAI|ANTHROPIC)_[A-Z][A-Z_]*[A-Z]\b", read)) - {
        "KELD_COLUMNS",
        "OPENAI_COMPATIBLE",
    }  # names in the code
    assert {variable for variable in documented if variable not in CODE} == set()
    assert ours <= documented
    assert set(_VARIABLES) == {name for name in documented if name.startswith("KELD_")}  # else a misspelt one is not noticed
    presets = [preset_of(kind, kind) for kind in BUILT_IN]
    of_kinds = {name for preset in presets for name in (preset.api_key_env, preset.base_url_env, *preset.variables.values()) if name}
    assert of_kinds <= documented


def test_every_variable_of_keld_that_is_named_is_read() -> None:
    named = set(re.findall(r"\bKELD_[A-Z][A-Z_]*[A-Z]\b", TEXT))
    everything = CODE + "".join(path.read_text() for path in (ROOT / "Makefile", *(ROOT / "example_project").glob("*.py")))
    assert {variable for variable in named if variable not in everything} == set()


def test_every_setting_of_the_runner_that_is_named_exists() -> None:
    named = set(re.findall(r"Settings\((\w+)=", TEXT))
    assert named <= {field.name for field in fields(Settings)}


# --- reference ------------------------------------------------------------------------------------------------------------


def _default(field: Field[Any]) -> str:
    if field.default_factory is not MISSING:
        return repr(field.default_factory())
    if field.default is MISSING:
        return "required"
    return field.default.__name__ if isinstance(field.default, type) else repr(field.default).replace("'", '"')


def test_the_fields_of_a_job_are_documented_with_their_defaults() -> None:
    documented = {_word(row[0]): _word(row[1]) for row in table(REFERENCE / "job.md")}
    assert documented == {field.name: _default(field) for field in fields(Job)}


def _patience(value: Any) -> str:
    from datetime import timedelta

    match value:
        case bool():
            return str(value)
        case int() | float():
            return f"{value:,g}" if isinstance(value, float) else f"{value:,}"
        case tuple():
            return ", ".join(map(_patience, value))
        case timedelta():
            seconds = round(value.total_seconds())
            unit, size = next(
                (unit, size) for unit, size in (("h", 3600), ("min", 60), ("s", 1)) if seconds % size == 0 and seconds // size > 1
            )
            return f"{seconds // size} {unit}"
    raise AssertionError(value)


def test_the_kinds_of_providers_are_documented_with_their_variables_and_lanes() -> None:
    page = REFERENCE / "providers.md"
    presets = {kind: preset_of(kind, kind) for kind in BUILT_IN}
    rows = {_word(row[0]): (row[2], set(re.findall(r"`(\w+)`", row[3]))) for row in table(page, "## Kinds")}
    assert rows == {
        kind: (
            ", ".join(lane.value for lane in Lane if lane in preset.traits.lanes),
            {variable for variable in (preset.api_key_env, preset.base_url_env, *preset.variables.values()) if variable},
        )
        for kind, preset in sorted(presets.items())
    }
    assert [_word(row[0]) for row in table(page, "## Account")] == [field.name for field in fields(Account)]
    more = [(name, field) for name in sorted(keld.__all__) for field in _own_fields(getattr(keld, name))]
    assert [tuple(map(_word, row[:2])) for row in table(page, "### Accounts with more fields")] == more


def _own_fields(found: Any) -> list[str]:
    """The fields of a class of accounts that `Account` does not have."""
    if not (isinstance(found, type) and issubclass(found, Account)):
        return []
    return [field.name for field in fields(found) if field.name not in {field.name for field in fields(Account)}]


def test_the_settings_are_documented_with_their_defaults() -> None:
    documented = {_word(row[0]): row[1].strip("`") for row in table(REFERENCE / "settings.md")}
    actual = {field.name: getattr(Settings(), field.name) for field in fields(Settings)}
    assert documented.keys() == actual.keys()
    assert {
        setting: value for setting, value in documented.items() if value not in {_patience(actual[setting]), _spelled(actual[setting])}
    } == {}


def _spelled(value: Any) -> str:
    """In seconds, where a page says `60 s` rather than `1 min`."""
    from datetime import timedelta

    match value:
        case timedelta():
            return f"{value.total_seconds():g} s"
        case tuple():
            return ", ".join(_spelled(one) if one < timedelta(minutes=5) else _patience(one) for one in value)
    return ""


def _facts(kind: type[errors.KeldError]) -> str:
    """The attributes that only some errors have."""
    return ",".join(fact for fact in inspect.signature(kind.__init__).parameters if fact not in ("self", "message", "job", "partition"))


def test_the_errors_are_documented_with_their_permanence_and_their_facts() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.KeldError)]
    documented = {_word(row[0]): (row[1], _word(row[2])) for row in table(REFERENCE / "errors.md")}
    assert documented == {kind.__name__: ("yes" if kind.permanent else "no", _facts(kind)) for kind in kinds}


def test_what_to_do_is_said_of_errors_that_exist() -> None:
    named = set(re.findall(r"`([A-Z]\w+)`", (DOCS / "how-to" / "errors.md").read_text()))
    assert {error for error in named if not hasattr(errors, error)} == set()


def test_the_columns_are_documented_with_their_types() -> None:
    documented = [(_word(row[0]), row[1]) for row in table(REFERENCE / "columns.md", "## Columns")]
    assert documented == [(column.name, str(column.type)) for column in KELD_COLUMNS]


def test_the_columns_of_an_answer_are_documented_with_their_types() -> None:
    kinds = {"Literal": Literal, "Enum": Enum("Choice", {"A": "a", "B": "b"}), "Union": Union, "Any": Any} | {
        kind.__name__: kind for kind in (Decimal, date, time, datetime, timedelta, UUID)
    }
    found = set()
    for annotations, column in ((row[0], row[1]) for row in table(REFERENCE / "columns.md", "## Columns of an answer")):
        for annotation in re.findall(r"`([^`]+)`", annotations):
            answer = create_model("Answer", field=(eval(annotation, kinds), ...))
            kind = str(output_schema(answer).columns.field("field").type)
            assert column.strip("`") == kind or column.startswith(f"`{kind}`"), annotation
            found.add(kind)
    assert found == {"string", "bool", "int64", "double", "list<item: string>"}


@pytest.mark.parametrize(
    ("heading", "words"), [("## Outcomes", Outcome), ("## States of a job run", RunState), ("## States of a shard", State)]
)
def test_outcomes_and_states_are_documented_in_their_order(heading: str, words: Any) -> None:
    assert [_word(row[0]) for row in table(REFERENCE / "columns.md", heading)] == [word.value for word in words]


def test_the_metadata_of_dagster_are_documented() -> None:
    named = set(re.findall(r'"((?:keld|dagster)/[a-z_]+)"', (ROOT / "keld_dagster" / "metadata.py").read_text()))
    assert named <= set(re.findall(r"`((?:keld|dagster)/[a-z_]+)`", (REFERENCE / "metadata.md").read_text()))


def _keys(made: ast.Dict) -> list[str]:
    """Those that a dict is written with: as they stand, or taken over in a row, `**{name: ... for name in ("a", "b")}`."""
    found: list[str] = []
    for key, value in zip(made.keys, made.values, strict=True):
        match key, value:
            case ast.Constant(value=str(name)), _:
                found.append(name)
            case None, ast.DictComp(generators=[ast.comprehension(iter=names)]):
                found += ast.literal_eval(names)
    return found


def test_the_manifest_of_airflow_is_documented() -> None:
    """Its fields in their order, and with a star what the asset event has, too."""
    module = ast.parse((ROOT / "keld_airflow" / "manifest.py").read_text())
    made = next(node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "manifest")
    returned = next(node.value for node in ast.walk(made) if isinstance(node, ast.Return) and isinstance(node.value, ast.Dict))
    event = next(node.value for node in module.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_EVENT")
    rows = table(REFERENCE / "metadata.md", "## Airflow")
    assert [_word(row[0]) for row in rows] == _keys(returned)
    assert {_word(row[0]) for row in rows if "*" in row[0]} == set(ast.literal_eval(event))


def test_the_metadata_that_are_documented_exist() -> None:
    documented = set(re.findall(r"`((?:keld|dagster)/[a-z_]+)`", TEXT))
    package = "\n".join(path.read_text() for path in (ROOT / "keld_dagster").glob("*.py"))
    assert {key for key in documented if f'"{key}"' not in package} == set()


def test_a_document_is_about_this_version_of_the_house() -> None:
    """Files of the code that a page names are there."""
    for page in PAGES:
        for path in re.findall(r"`((?:keld|keld_dagster|keld_airflow|tests|example_project)/[\w/]*[./][\w.]*)`", prose(page)):
            assert (ROOT / path).exists(), f"{name(page)}: {path}"


def test_the_architecture_has_the_map_of_the_house() -> None:
    """`make map` after a change of the map in `keld/__init__.py`."""
    assert drawn((DOCS / "architecture.md").read_text()) == rooms()


def test_every_trap_that_a_test_names_is_explained_where_its_file_says() -> None:
    explained = anchors(DOCS / "notes" / "providers.md")
    texts = {name(path): path.read_text() for path in (ROOT / "tests").rglob("*.py") if path.name != Path(__file__).name}
    named = {path: set(re.findall(r"\bTrap (\d+)", text)) for path, text in texts.items()}
    assert any(named.values())
    assert {f"trap-{number}" for numbers in named.values() for number in numbers} <= explained
    assert [path for path, numbers in named.items() if numbers and "docs/notes/providers.md" not in texts[path]] == []


def test_every_page_that_the_code_names_is_there() -> None:
    named = set(re.findall(r"docs/[\w/-]+\.md", CODE))
    assert named
    assert {page for page in named if not (ROOT / page).exists()} <= PROMISED
    assert re.findall(r"\bfacts, Nov\w*", CODE) == []
