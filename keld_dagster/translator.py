"""Translator: how the two assets of a job look in Dagster.

`asset` calls it twice while the code location loads.  The one override point of the package: key prefix, group,
owners, tags, kinds, description, all through one method, because twenty small hooks are harder to learn than one.
"""

from __future__ import annotations

from typing import Literal

import dagster as dg

Part = Literal["batch", "result"]


class KeldTranslator:
    """Override `get_asset_spec` to change what Dagster shows of a job.

    class Ours(KeldTranslator):
        def get_asset_spec(self, part, default):
            return default.replace_attributes(owners=["team:support"]).merge_attributes(tags={"pii": "yes"})
    """

    def get_asset_spec(self, part: Part, default: dg.AssetSpec) -> dg.AssetSpec:
        """The spec of `<name>_batch` (what was sent) or of `<name>` (the enriched partition)."""
        return default
