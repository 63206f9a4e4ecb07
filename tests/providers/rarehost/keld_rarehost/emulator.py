"""Emulator: the service of otherhost, and where it differs:

POST   /jobs             the same label `keld` again, within ten minutes, gives the job that there is; after that it makes a second one
GET    /jobs?label=..    only the jobs of that label
a job                    has 4 requests or more, else it fails with BAD_SIZE; label ids are letters and digits; it never expires
STOPPED, EXPIRED         give no result objects back, and count nothing
"""

import re
from pathlib import Path
from typing import Any

import msgspec
from keld_otherhost.emulator import OtherHost
from keld_otherhost.lines import Line
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from keld.emulator.batch import Batch, Problem
from keld.emulator.life import Phase
from keld.emulator.row import Rows

LEAST = 4
REPLAYS_S = 600
_PLAIN = re.compile(r"[A-Za-z0-9]{1,64}")


class RareHost(OtherHost):
    kind = "rarehost"
    title = "Rarehost"
    base = "/rarehost/v1"
    owns = "/rarehost"

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {"RAREHOST_BASE_URL": base_url, "RAREHOST_API_KEY": api_key}

    async def create(self, request: Request) -> Response:
        label = msgspec.json.decode(await request.body()).get("labels", {}).get("keld")
        for batch in self.store.batches(self.kind):
            if (batch.metadata or {}).get("keld") == label and self.host.now() - batch.created_at <= REPLAYS_S:
                return JSONResponse(self.show(batch, batch.phase(self.host.now()), str(request.base_url)))
        return await super().create(request)

    async def list_jobs(self, request: Request) -> Response:
        label = request.query_params.get("label")
        if label is None:
            return await super().list_jobs(request)
        found = [batch for batch in self.host.listed() if (batch.metadata or {}).get("keld") == label]
        await self.store.catch_up(found)
        return JSONResponse({"jobs": [await self._look(batch, request) for batch in found]})

    def show(self, batch: Batch, phase: Phase, host: str) -> dict[str, Any]:
        shown = super().show(batch, phase, host)
        if phase.status in ("cancelled", "expired"):
            shown["outputs"], shown["counts"] = None, {"total": batch.size}
        return shown

    def _prepare(self, batch: Batch, path: Path) -> None:
        rows = Rows.of_lines(path)
        labels = [msgspec.json.decode(row, type=Line).label for row in rows]
        if len(rows) < LEAST:
            batch.problems = [Problem(code="BAD_SIZE", message=f"A job has {LEAST} requests or more; this one has {len(rows)}.")]
        elif not all(_PLAIN.fullmatch(label) for label in labels):
            batch.problems = [Problem(code="BAD_LABEL", message="The label of a request is letters and digits.")]
        else:
            super()._prepare(batch, path)
