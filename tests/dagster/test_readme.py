"""The README's example, run as it stands."""

import re
from pathlib import Path
from typing import Any


def test_example_in_the_readme_gives_its_two_assets_a_sensor_and_the_checks() -> None:
    """A newcomer copies it first; it must load."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    found = re.search(r"## In Dagster\n\n```python\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    defs = names["defs"]
    graph = defs.resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert keys == {"tickets", "ticket_labels_batch", "ticket_labels"}
    assert {key.name for key in graph.asset_check_keys} == {"completion_rate", "deadline_met", "cost_under_ceiling"}
    assert len(list(defs.sensors)) == 1
