"""Source: where the rows of a partition come from.

Loaded lazily, in the op, and only by a run that submits: as an op input the table would be read by every run that merely attaches
or collects, and for all partitions of a ranged run at once.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import dagster as dg

from keld_dagster.frame import Frame, frame_like, python_type

_ASSET_KEY = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")

SourceLike = dg.AssetsDefinition | dg.AssetKey | str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An upstream asset, or a path template; exactly one of `key` and `path`."""

    key: dg.AssetKey | None = None
    path: str | None = None
    frame: Frame = "pandas"  # what its asset gives, by its annotation
    partitions_def: dg.PartitionsDefinition[Any] | None = None

    def load(self, context: dg.AssetExecutionContext, partition: str | None, frame: Frame) -> Any:
        """The rows of a partition: as an asset's value, or as a path for `keld` to open."""
        if self.key is None:
            return self.path
        return context.load_asset_value(self.key, python_type=python_type(frame), partition_key=partition)


def source_of(source: SourceLike) -> Source:
    """A `Source` of what the user gave.

    A string that could be an asset key is one; anything with a dot, a brace, a scheme or a leading slash is a path.
    """
    match source:
        case dg.AssetsDefinition():
            declared = next(iter(source.node_def.output_defs)).dagster_type.typing_type if source.is_executable else None
            return Source(key=source.key, frame=frame_like(declared), partitions_def=source.partitions_def)
        case dg.AssetKey():
            return Source(key=source)
        case str() if _ASSET_KEY.fullmatch(source):
            return Source(key=dg.AssetKey.from_user_string(source))
        case _:
            return Source(path=os.fspath(source))
