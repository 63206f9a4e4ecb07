"""Provider: rarehost for Keld: otherhost, and the traits that few hosts have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from keld_otherhost.provider import PRESET as OTHERHOST
from keld_otherhost.provider import OtherBatches, as_faults, read, remote

from keld import http
from keld.providers.base import RemoteBatch


class RareBatches(OtherBatches):
    """`Batches` and `Finds` of one account at rarehost."""

    def find(self, key: str, since: datetime) -> Iterator[RemoteBatch]:
        with as_faults(), http.asking(self._patience):
            found = read(self._client.call("GET", "/jobs", params={"label": key}), "jobs")
        yield from (remote(job) for job in found["jobs"])


PRESET = replace(
    OTHERHOST,
    kind="rarehost",
    base_url="https://api.rarehost.example/v1",
    base_url_env="RAREHOST_BASE_URL",
    api_key_env="RAREHOST_API_KEY",
    batches=RareBatches,
    batch_page=None,
    traits=replace(
        OTHERHOST.traits,
        replays=timedelta(minutes=10),
        finds=True,
        least_requests=4,
        keeps_on_cancel=False,
        keeps_on_expiry=False,
        repeats_cost=False,
        plain_ids=True,
    ),
)
