"""The examples for Dagster in README and docs/, run as they stand; and that each line of the table of cases is a test."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from keld.emulator import Emulator
from keld_dagster.testing import materialize
from tests.support.documents import DOCS, ROOT, blocks


def definitions(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The `defs` that a page's example makes; its files are where Python finds them."""
    for block in blocks(page):
        if block.title is not None:
            (tmp_path / block.title).write_text(block.text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    [code] = [block.text for block in blocks(page) if "import dagster" in block.text]
    names: dict[str, Any] = {}
    try:
        exec(code, names)
    finally:
        sys.modules.pop("jobs", None)
    return names["defs"]


@pytest.mark.parametrize(
    ("page", "sources"), [(ROOT / "README.md", set[str]()), (DOCS / "how-to" / "dagster.md", {"tickets"})], ids=["README", "how-to"]
)
def test_an_example_gives_its_two_assets_a_sensor_and_the_checks(
    page: Path, sources: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A newcomer copies it first; it must load."""
    defs = definitions(page, monkeypatch, tmp_path)
    graph = defs.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {*sources, "ticket_labels_batch", "ticket_labels"}
    assert {key.name for key in graph.asset_check_keys} == {"completion_rate", "deadline_met", "cost_under_ceiling", "valid_rate"}
    assert len(list(defs.sensors)) == 1


def test_the_guides_example_labels_its_tickets_as_it_stands(
    keld_emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A newcomer materializes it next: a source without rows would be the first thing that fails."""
    made = definitions(DOCS / "how-to" / "dagster.md", monkeypatch, tmp_path)
    done = materialize(list(made.assets), partition_key="2026-11-19")
    assert done.success and len(keld_emulator.bill()) == len(done.asset_value("ticket_labels")) > 0


def test_each_case_of_the_table_names_the_test_that_holds_it() -> None:
    table = (DOCS / "notes" / "dagster.md").read_text(encoding="utf-8").partition("## How backfills and waits end")[2]
    named = re.findall(r"`(test_\w+)` \|$", table, re.MULTILINE)
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []
