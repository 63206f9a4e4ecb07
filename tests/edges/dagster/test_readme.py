"""The examples for Dagster in README and docs/, run as they stand."""

import sys
from pathlib import Path
from typing import Any

import pytest

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
