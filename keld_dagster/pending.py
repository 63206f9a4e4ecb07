"""Pending: the partitions that one run submitted, and whose results are not collected yet.

`asset` records them, `hold` shows them as a run, and `sensor` ends that run.  They have no table of their own: their
facts are the tags of Dagster's runs, and the state of each partition is the job run's in the ledger.  Tags hold ids and keys only.

The UI shows every tag of a run in the list of runs, except those that begin with `.dagster/`; so these do.  Runs of earlier versions have the
same tags with `keld/` instead, and are still read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count, takewhile

import dagster as dg

_HIDDEN = ".dagster/keld_"
_FORMERLY = "keld/"
ASSET_TAG = f"{_HIDDEN}asset"  # the result asset
WAIT_TAG = f"{_HIDDEN}wait"  # the run that submitted
JOB_RUNS_TAG = f"{_HIDDEN}job_runs"  # {partition: job run}, as JSON
FOLLOWERS_TAG = f"{_HIDDEN}followers"  # assets planned in the submit run that had to be skipped there, as JSON
JOB_RUN_TAG = f"{_HIDDEN}job_run"  # on a collect run: the job run it collects
FRAMES_TAG = f"{_HIDDEN}frames"  # on a test's collect run, which has no code location: {asset: frame}, as JSON
TEST_TAG = f"{_HIDDEN}test"  # on the runs of `testing`, which collects by itself
PHASE_TAG = "keld/phase"  # visible: it tells a person what the run is for
BACKFILL_TAG = "dagster/backfill"
PARTITION_TAG = "dagster/partition"
# What Dagster itself reads of a person's tags; the others of its prefix say what a run is, and are of that run alone.
_GIVEN_TAGS = (
    "dagster/priority",
    "dagster/max_retries",
    "dagster/retry_strategy",
    "dagster/retry_on_asset_or_op_failure",
    "dagster/max_runtime",
)
_OTHERS = ("dagster/", ".dagster/", "keld/")
_PLACE_TAGS = (BACKFILL_TAG, PARTITION_TAG, "dagster/asset_partition_range_start", "dagster/asset_partition_range_end")

COLLECT = "collect"
# Characters of a tag, all of them ASCII.  Dagster's index of tags in Postgres takes no row above 2,704 bytes, and the run would be made without any
# (https://github.com/dagster-io/dagster/issues/7875, 2026-12-01): some sixty partitions of one run.
_LONGEST = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingPartitions:
    """The partitions of a result asset that a run submitted.

    Args:
        id: the run that submitted.
        job_runs: partition (empty for an asset without partitions) -> job run.
        followers: downstream assets that each collect run also runs, since a backfill requests a partition only once.
        place: the run's own partition and backfill tags.
    """

    id: str
    asset: dg.AssetKey
    job_runs: Mapping[str, str]
    followers: tuple[dg.AssetKey, ...] = ()
    place: Mapping[str, str] = field(default_factory=dict)

    @property
    def backfill(self) -> str | None:
        return self.place.get(BACKFILL_TAG)

    def to_tags(self) -> dict[str, str]:
        return {
            **self.place,
            WAIT_TAG: self.id,
            ASSET_TAG: self.asset.to_user_string(),
            **tags_of(JOB_RUNS_TAG, json.dumps(dict(self.job_runs))),
            **self.followers_tags(),
        }

    def followers_tags(self) -> dict[str, str]:
        return tags_of(FOLLOWERS_TAG, json.dumps([key.to_user_string() for key in self.followers]))

    @staticmethod
    def from_tags(tags: Mapping[str, str]) -> PendingPartitions:
        """The pending partitions of a hold run's tags.

        Raises:
            KeyError, ValueError: `to_tags` did not write them, or they were cut.
        """
        return PendingPartitions(
            id=tag_of(tags, WAIT_TAG),
            asset=dg.AssetKey.from_user_string(tag_of(tags, ASSET_TAG)),
            job_runs=json.loads(tag_of(tags, JOB_RUNS_TAG)),
            followers=tuple(dg.AssetKey.from_user_string(key) for key in json.loads(tag_of(tags, FOLLOWERS_TAG, "[]"))),
            place=place_of(tags),
        )


def tags_of(name: str, value: str) -> dict[str, str]:
    """A value as a tag; the rest of a long one as `name_1`, `name_2` and so on."""
    parts = [value[start : start + _LONGEST] for start in range(0, len(value), _LONGEST)]
    return {name if n == 0 else f"{name}_{n}": part for n, part in enumerate(parts)}


def tag_of(tags: Mapping[str, str], name: str, default: str | None = None) -> str:
    """The value of one of these tags on a run of this or an earlier version, whole.

    Raises:
        KeyError: the run has none, and there is no default.
    """
    value = tags.get(name, tags.get(formerly(name), default))
    if value is None:
        raise KeyError(name)
    rest = takewhile(lambda part: part is not None, (tags.get(f"{name}_{n}") for n in count(1)))
    return value + "".join(part for part in rest if part is not None)


def formerly(name: str) -> str:
    """What an earlier version called a tag."""
    return name.replace(_HIDDEN, _FORMERLY, 1)


def place_of(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a run that name its backfill and partitions."""
    return {name: tags[name] for name in _PLACE_TAGS if name in tags}


def given_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that a person, a job or a schedule gave a run: what is made in its place later needs the same priority, retries and memory."""
    return {name: value for name, value in tags.items() if name in _GIVEN_TAGS or not name.startswith(_OTHERS)}
