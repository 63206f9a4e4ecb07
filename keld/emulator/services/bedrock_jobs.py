"""Bedrock jobs: the routes of batch inference jobs; an object of S3 in, two objects out.

A client token is remembered for ten minutes: the documentation gives no time, and a client that believes in a longer one pays twice here.
A create that lands more than five minutes after it was signed is refused, as every signed request is.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..batch import Batch
from ..bucket import place_of
from ..dialect import Dialect
from ..error import ApiError
from ..host import Host
from ..life import ENDED, Phase
from ..page import token_page
from ..row import Rows
from ..service import Endpoint
from ..store import Store
from .bedrock_envelope import BedrockEnvelope
from .bedrock_input import problem_of
from .bedrock_object import job_object, manifest, output_name, status_of
from .bedrock_parameter import Create, ListQuery, create_body, is_signed, list_query, region_of

TOKEN_KEPT_S = 600.0
SIGNED_FOR_S = 300.0  # docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, Nov 2026
MOST_IN_FLIGHT = 100  # "Batch inference jobs in progress and submitted", docs.aws.amazon.com/general/latest/gr/bedrock.html, Nov 2026


class DialectOf(Protocol):
    def __call__(self, model: str, *, invoked: bool) -> Dialect: ...


@dataclass
class _Job:
    """What a create said, and where its job is."""

    asked: Create
    body: bytes
    region: str
    batch: Batch
    published: bool = False


@dataclass
class Jobs:
    """The jobs of one service; `kind` is the service's, `base` the path before `/model-invocation-job`."""

    store: Store
    kind: str
    base: str
    dialect_of: DialectOf
    jobs: dict[str, _Job] = field(default_factory=dict)  # by the batch's id
    tokens: dict[str, _Job] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.host = Host(store=self.store, kind=self.kind)

    def routes(self) -> list[Endpoint]:
        one = f"{self.base}/model-invocation-job"
        return [
            Endpoint(operation="create", method="POST", path=one, handler=self.create),
            Endpoint(operation="list", method="GET", path=f"{one}s", handler=self.list),
            Endpoint(operation="cancel", method="POST", path=f"{one}/{{batch_id:path}}/stop", handler=self.stop),
            Endpoint(operation="get", method="GET", path=f"{one}/{{batch_id:path}}", handler=self.get),
        ]

    async def create(self, request: Request) -> Response:
        body = await request.body()
        asked, region = create_body(body), region_of(request)
        dialect = self.dialect_of(asked.modelId, invoked=asked.modelInvocationType == "InvokeModel")
        earlier = self._earlier(asked, body)
        if earlier is not None:
            return JSONResponse({"jobArn": self.show(earlier.batch, Phase("validating", 0))["jobArn"]})
        self._check_quota()

        def make() -> Batch:
            path = request.url.path
            batch = self.store.new_batch(
                secrets.token_hex(6), self.kind, envelope=BedrockEnvelope(), dialect=dialect, path=path, model=asked.modelId
            )
            batch.window_s = (asked.timeoutDurationInHours or 24) * 3_600.0
            batch.input_uri = asked.input_uri
            batch.twice = False  # the second create has the same token
            batch.deleted = is_signed(request) and batch.created_at - self.host.now() > SIGNED_FOR_S
            job = self.jobs[batch.id] = _Job(asked, body, region, batch)
            if asked.clientRequestToken is not None:
                self.tokens[asked.clientRequestToken] = job
            return batch

        return self.host.create(make, self._prepare, lambda batch: {"jobArn": self.show(batch, Phase("validating", 0))["jobArn"]})

    async def list(self, request: Request) -> Response:
        query = list_query(request)
        batches = [batch for batch in self.host.listed() if self._fits(batch, query)]
        if query.ascending:
            batches.reverse()
        shown, token = token_page(batches, lambda batch: batch.id, limit=query.most, token=query.token)
        await self.store.catch_up(shown)
        summaries = [await self._look(batch) for batch in shown]
        return JSONResponse({"invocationJobSummaries": summaries} | ({"nextToken": token} if token else {}))

    async def get(self, request: Request) -> Response:
        batch = self._batch(request)
        await self.store.catch_up([batch])
        return JSONResponse(await self._look(batch))

    async def stop(self, request: Request) -> Response:
        batch = self._batch(request)
        if await self.host.cancel(batch) is not None:
            message = "The job cannot be stopped since it has already ended."
            raise ApiError(status=400, message=message, code="ConflictException")
        return JSONResponse({})

    def show(self, batch: Batch, phase: Phase) -> dict[str, Any]:
        job = self.jobs[batch.id]
        return job_object(batch, phase, job.asked, job.region, self.host.now())

    # --- life ---------------------------------------------------------------------------------------------------------

    def _batch(self, request: Request) -> Batch:
        named = request.path_params["batch_id"]
        batch = self.host.find(named.rpartition("/")[2])
        if batch is None:
            raise ApiError(status=404, message=f"The provided job identifier {named} is not found.", code="ResourceNotFoundException")
        return batch

    def _fits(self, batch: Batch, query: ListQuery) -> bool:
        status = query.status is None or status_of(batch, batch.phase(self.host.now()), self.host.now()) == query.status
        return status and query.after <= batch.created_at <= query.before and query.name in self.jobs[batch.id].asked.jobName

    async def _look(self, batch: Batch) -> dict[str, Any]:
        phase = await self.host.look(batch)
        job = self.jobs[batch.id]
        if batch.names_results(self.host.now(), phase) and not job.published:
            job.published = True
            await run_in_threadpool(self._publish, job, phase)
        return self.show(batch, phase)

    def _earlier(self, asked: Create, body: bytes) -> _Job | None:
        """The job that an earlier create with the same token made.

        Raises:
            ApiError: that create said something else.
        """
        known = self.tokens.get(asked.clientRequestToken or "")
        if known is None or self.host.now() >= known.batch.created_at + TOKEN_KEPT_S:
            return None
        if known.batch.created_at > self.host.now():  # it has not arrived yet; when it does, this one's token is known, or forgotten again
            known.batch.deleted = known.batch.deleted or known.batch.created_at < self.host.now() + TOKEN_KEPT_S
            return None
        if msgspec.json.decode(known.body) != msgspec.json.decode(body):
            message = "The provided client request token is already in use by a request with other parameters."
            raise ApiError(status=400, message=message, code="ConflictException")
        return known

    def _check_quota(self) -> None:
        now = self.host.now()
        busy = sum(batch.phase(now).status not in ENDED for batch in self.store.batches(self.kind))
        if busy >= MOST_IN_FLIGHT:
            message = (
                f"The maximum number of batch inference jobs in progress and submitted, {MOST_IN_FLIGHT}, was exceeded. Try again later."
            )
            raise ApiError(status=400, message=message, code="ServiceQuotaExceededException")

    def _prepare(self, batch: Batch) -> None:
        asked = self.jobs[batch.id].asked
        found = self.store.objects.find(*place_of(asked.input_uri))
        rows = None if found is None else Rows.of_lines(found.path)
        arn = self.show(batch, Phase("validating", 0))["jobArn"]
        batch.begin(rows, batch.planned_failure() or problem_of(rows, arn, asked.input_uri))

    def _publish(self, job: _Job, phase: Phase) -> None:
        """Write the answers and the manifest into the customer's bucket."""
        batch, asked = job.batch, job.asked
        if batch.rows is None or phase.status == "failed" or (phase.status == "expired" and not phase.done):
            return
        scheme, bucket, folder = place_of(asked.output_uri)
        folder = f"{folder.rstrip('/')}/{batch.id}/".lstrip("/")
        write: Callable[[str, bytes], object] = lambda name, data: self.store.objects.write(scheme, bucket, folder + name, data)  # noqa: E731
        write("manifest.json.out", msgspec.json.encode(manifest(batch, phase)))
        if batch.rule("results", "no_output_id", "empty_output_id") is None:
            write(output_name(asked.input_uri), batch.out_path.read_bytes())
