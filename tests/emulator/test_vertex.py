"""The Vertex service, through google-genai in Vertex mode, in both versions; every reply is held against the discovery document of the API."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from keld.emulator import Emulator

FLASH, CLAUDE = "gemini-2.5-flash", "claude-haiku-4-5@20251001"
VERSIONS = {"v1": "V1", "v1beta1": "V1beta1"}


# --- the discovery document -------------------------------------------------------------------------------------------


@cache
def schemas(version: str) -> dict[str, Any]:
    document = files("googleapiclient.discovery_cache.documents") / f"aiplatform.{version}.json"
    return dict(json.loads(document.read_bytes())["schemas"])


def hold(value: Any, schema: dict[str, Any], version: str, where: str = "reply") -> None:
    """Holds a value against a schema of the document: known fields, types, formats, words."""
    if "$ref" in schema:
        hold(value, schemas(version)[schema["$ref"]], version, where)
        return
    kinds = {"string": str, "boolean": bool, "object": dict, "array": list, "number": int | float, "integer": int, "any": object}
    assert isinstance(value, kinds[schema["type"]]), f"{where} is {value!r}, no {schema['type']}"
    match schema:
        case {"type": "string"}:
            assert value in schema.get("enum", [value]), f"{where} is {value!r}"
            form = {"int64": r"-?\d+", "google-datetime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"}.get(
                schema.get("format", ""), "(?s).*"
            )
            assert re.fullmatch(form, value), f"{where} is {value!r}, no {schema.get('format')}"
        case {"type": "array"}:
            for n, item in enumerate(value):
                hold(item, schema["items"], version, f"{where}[{n}]")
        case {"type": "object", "properties": known}:
            assert value.keys() <= known.keys(), f"{where} has {sorted(value.keys() - known.keys())}"
            for name, item in value.items():
                hold(item, known[name], version, f"{where}.{name}")
        case {"type": "object", "additionalProperties": every}:
            for name, item in value.items():
                hold(item, every, version, f"{where}.{name}")


def schema_of(request: httpx2.Request, version: str) -> str | None:
    """The name of the schema of a reply; None: the document has none for it."""
    prefix = f"GoogleCloudAiplatform{VERSIONS[version]}"
    path = request.url.path
    if path.endswith(":generateContent"):
        return prefix + "GenerateContentResponse"
    if path.endswith("/batchPredictionJobs") and request.method == "GET":
        return prefix + "ListBatchPredictionJobsResponse"
    return None if path.endswith((":cancel", ":rawPredict")) or request.method == "DELETE" else prefix + "BatchPredictionJob"


@dataclass
class Held(httpx2.BaseTransport):
    """Sends, and holds each reply against the document."""

    version: str
    inner: httpx2.HTTPTransport

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self.inner.handle_request(request)
        response.read()
        name = schema_of(request, self.version)
        if response.is_success and name is not None:
            hold(response.json(), schemas(self.version)[name], self.version, name)
        elif not response.is_success:
            hold(response.json()["error"], {"$ref": "GoogleRpcStatus"} | {}, self.version) if "status" not in response.json()[
                "error"
            ] else None
            assert {"code", "message", "status"} <= response.json()["error"].keys()
        return response


# --- the desk ---------------------------------------------------------------------------------------------------------


@dataclass
class Google:
    """An emulator with a client of the SDK."""

    emulator: Emulator
    version: str

    def connect(self, project: str = "p", location: str = "global") -> genai.Client:
        transport = Held(self.version, httpx2.HTTPTransport())
        options = types.HttpOptions(
            base_url=self.emulator.url_of("vertex"), api_version=self.version, httpx_client=httpx2.Client(transport=transport),
            httpx_async_client=httpx2.AsyncClient(),
        )  # fmt: skip
        return genai.Client(vertexai=True, project=project, location=location, credentials=Credentials(token="t"), http_options=options)  # type: ignore[no-untyped-call]  # google-auth has no types for it

    def put(self, lines: list[dict[str, Any]], name: str = "in/rows.jsonl") -> str:
        self.emulator._live.store.objects.write("gs", "tickets", name, "\n".join(map(json.dumps, lines)).encode())
        return f"gs://tickets/{name}"

    def create(self, client: genai.Client, rows: int = 6, model: str = FLASH, **config: Any) -> types.BatchJob:
        asked: dict[str, Any] = {"display_name": "mark", "dest": "gs://tickets/out", **config}
        line = claude_line if model == CLAUDE else gemini_line
        return client.batches.create(
            model=f"publishers/anthropic/models/{model}" if model == CLAUDE else model,
            src=self.put([line(n) for n in range(rows)]),
            config=asked,
        )  # type: ignore[arg-type]

    def output(self, job: types.BatchJob) -> list[dict[str, Any]]:
        """All result lines, from all objects below the job's own folder."""
        raw = httpx2.get(f"{self.emulator.url_of('vertex')}/{self.version}/{job.name}", headers={"authorization": "Bearer t"}).json()
        bucket, _, folder = raw["outputInfo"]["gcsOutputDirectory"].removeprefix("gs://").partition("/")
        objects = self.emulator._live.store.objects.listed("gs", bucket, folder)
        assert len(objects) > 1, "sharded"
        return [json.loads(line) for one in objects for line in one.read().splitlines()]

    def fault(self, at: str, do: str, **more: Any) -> None:
        self.emulator.faults({"rules": [{"at": at, "do": do, "match": {"provider": "vertex"}, **more}]})


def gemini_line(n: int) -> dict[str, Any]:
    contents = [{"role": "user", "parts": [{"text": f"Ticket {n}"}]}]
    return {"request": {"contents": contents, "labels": {"keld": f"aaaaaaaaaa-{n:08d}"}}}


def claude_line(n: int) -> dict[str, Any]:
    message = {"role": "user", "content": f"Ticket {n}"}
    return {"custom_id": f"row-{n}", "request": {"anthropic_version": "vertex-2023-10-16", "max_tokens": 64, "messages": [message]}}


@pytest.fixture(params=VERSIONS)
def google(request: pytest.FixtureRequest, open_emulator: Callable[..., Emulator]) -> Iterator[Google]:
    """Batches take 100 s on a frozen clock, cancelling takes 10 s."""
    yield Google(open_emulator(latency_s=100), str(request.param))


# --- jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [FLASH, CLAUDE])
def test_an_object_becomes_a_job_and_its_answers_several_objects(google: Google, model: str) -> None:
    client = google.connect()
    job = google.create(client, model=model)
    assert (job.display_name, job.state) == ("mark", types.JobState.JOB_STATE_QUEUED)
    google.emulator.advance(50)
    assert client.batches.get(name=str(job.name)).state is types.JobState.JOB_STATE_RUNNING
    google.emulator.advance(60)
    ended = client.batches.get(name=str(job.name))
    assert ended.state is types.JobState.JOB_STATE_SUCCEEDED
    assert ended.completion_stats is not None
    assert ended.completion_stats.successful_count == 6
    lines = google.output(ended)
    assert len(lines) == len(google.emulator.bill()) == 6
    assert all(line["status"] == "" and line["response"] for line in lines)
    if model == CLAUDE:
        assert {line["custom_id"] for line in lines} == {f"row-{n}" for n in range(6)}
    else:
        assert {line["request"]["labels"]["keld"] for line in lines} == {f"aaaaaaaaaa-{n:08d}" for n in range(6)}
        for line in lines:
            hold(
                line["response"],
                schemas(google.version)[f"GoogleCloudAiplatform{VERSIONS[google.version]}GenerateContentResponse"],
                google.version,
            )


def test_jobs_are_found_by_their_labels_in_their_own_project(google: Google) -> None:
    client, other = google.connect(), google.connect("q")
    mine = google.create(client, http_options={"extra_body": {"labels": {"keld": "a-1"}}})
    google.create(client, http_options={"extra_body": {"labels": {"keld": "b-1"}}})
    google.create(client)
    google.create(other, http_options={"extra_body": {"labels": {"keld": "a-1"}}})

    def found(client: genai.Client, wanted: str) -> list[str | None]:
        return [job.name for job in client.batches.list(config={"filter": wanted, "page_size": 2})]

    assert found(client, 'labels.keld="a-1"') == [mine.name]
    assert len(found(client, "labels.keld:*")) == 2
    assert len(found(client, "")) == 3
    assert found(client, 'display_name="mark" AND labels.keld="a-1"') == [mine.name]
    with pytest.raises(errors.ClientError) as refused:
        found(client, "labels.keld ~ a")
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    with pytest.raises(errors.ClientError) as missing:
        httpx_name = str(mine.name).replace("projects/p/", "projects/q/")
        other.batches.get(name=httpx_name)
    assert missing.value.code == 404


def test_a_cancelled_job_keeps_what_it_answered(google: Google) -> None:
    client = google.connect()
    job = google.create(client)
    google.emulator.advance(50)
    client.batches.cancel(name=str(job.name))
    assert client.batches.get(name=str(job.name)).state is types.JobState.JOB_STATE_CANCELLING
    google.emulator.advance(30)
    ended = client.batches.get(name=str(job.name))
    assert ended.state is types.JobState.JOB_STATE_CANCELLED
    assert 0 < len(google.output(ended)) == len(google.emulator.bill()) < 6
    with pytest.raises(errors.ClientError) as refused:
        client.batches.cancel(name=str(job.name))
    assert refused.value.status == "FAILED_PRECONDITION"


def test_rows_that_were_refused_make_a_job_that_succeeded_in_part(google: Google) -> None:
    google.fault("rows", "error", status=429, count=2)
    job = google.create(google.connect())
    google.emulator.advance(110)
    ended = google.connect().batches.get(name=str(job.name))
    assert ended.state is types.JobState.JOB_STATE_PARTIALLY_SUCCEEDED
    refused = [line for line in google.output(ended) if line["status"]]
    assert [(line["response"], "RESOURCE_EXHAUSTED" in line["status"]) for line in refused] == [({}, True)] * 2


def test_how_many_rows_are_left_is_not_known_before_the_end(google: Google) -> None:
    job = google.create(google.connect())
    google.emulator.advance(50)
    running = google.connect().batches.get(name=str(job.name))
    assert running.completion_stats is not None
    assert running.completion_stats.incomplete_count == -1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"http_options": {"extra_body": {"labels": {"keld": "Upper"}}}}, "Label keys and values"),
        ({"dest": "gs://tickets"}, "not a valid Cloud Storage URI"),
        ({"http_options": {"extra_body": {"surprise": 1}}}, 'Unknown name "surprise"'),
    ],
)
def test_a_job_that_breaks_a_rule_is_refused(google: Google, config: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.ClientError, match=words):
        google.create(google.connect(), **config)


def test_a_model_that_is_not_there_is_told(google: Google) -> None:
    with pytest.raises(errors.ClientError) as refused:
        google.create(google.connect(), model="gemini-does-not-exist")
    assert (refused.value.code, refused.value.status) == (404, "NOT_FOUND")


def test_claude_has_four_jobs_at_once_in_a_project(google: Google) -> None:
    client = google.connect()
    for _ in range(4):
        google.create(client, model=CLAUDE)
    with pytest.raises(errors.ClientError) as refused:
        google.create(client, model=CLAUDE)
    assert refused.value.status == "RESOURCE_EXHAUSTED"
    google.create(google.connect("q"), model=CLAUDE)
    google.create(client)


@pytest.mark.parametrize("lines", [[], [{"ask": 1}], [claude_line(0), claude_line(0)]], ids=["empty", "no request", "an id twice"])
def test_an_input_that_is_none_fails_the_job(google: Google, lines: list[dict[str, Any]]) -> None:
    client = google.connect()
    job = client.batches.create(
        model=f"publishers/anthropic/models/{CLAUDE}", src=google.put(lines), config={"display_name": "mark", "dest": "gs://tickets/out"}
    )
    google.emulator.advance(1)
    failed = client.batches.get(name=str(job.name))
    assert failed.state is types.JobState.JOB_STATE_FAILED
    assert failed.error is not None
    assert failed.error.code == 3


def test_an_input_that_is_removed_in_time_fails_the_job_and_nothing_is_paid(open_emulator: Callable[..., Emulator]) -> None:
    google = Google(open_emulator(latency_s=100, validate_s=30), "v1")
    job = google.create(google.connect())
    google.emulator._live.store.objects.delete("gs", "tickets", "in/rows.jsonl")
    google.emulator.advance(200)
    assert google.connect().batches.get(name=str(job.name)).state is types.JobState.JOB_STATE_FAILED
    assert google.emulator.bill() == []


# --- single calls -----------------------------------------------------------------------------------------------------


def test_gemini_answers_at_once_and_tells_the_tier(google: Google) -> None:
    client = google.connect()
    answer = client.models.generate_content(model=FLASH, contents="hi")
    flex = {"http_options": {"headers": {"X-Vertex-AI-LLM-Shared-Request-Type": "flex"}}}
    cheap = client.models.generate_content(model=FLASH, contents="hi", config=flex)  # type: ignore[arg-type]
    tiers = [str(one.usage_metadata.traffic_type) for one in (answer, cheap) if one.usage_metadata]
    assert [tier.rpartition(".")[2] for tier in tiers] == ["ON_DEMAND", "ON_DEMAND_FLEX"]
    assert [entry.lane for entry in google.emulator.bill()] == ["standard", "flex"]
    with pytest.raises(errors.ClientError, match="global location only"):
        google.connect(location="europe-west4").models.generate_content(model=FLASH, contents="hi", config=flex)  # type: ignore[arg-type]


def test_the_async_client_is_answered_too(google: Google) -> None:
    answer = asyncio.run(google.connect().aio.models.generate_content(model=FLASH, contents="hi"))
    assert answer.text


def test_claude_is_asked_by_its_own_api_and_refuses_in_its_own_shape(google: Google) -> None:
    from anthropic import AnthropicVertex, BadRequestError

    base = f"{google.emulator.url_of('vertex')}/v1"
    client = AnthropicVertex(project_id="p", region="global", access_token="t", base_url=base, max_retries=0)
    message = client.messages.create(model=CLAUDE, max_tokens=64, messages=[{"role": "user", "content": "hi"}])
    assert message.content
    assert [(entry.model, entry.lane) for entry in google.emulator.bill()] == [(CLAUDE, "standard")]
    with pytest.raises(BadRequestError) as refused:
        client.messages.create(model=CLAUDE, max_tokens=0, messages=[{"role": "user", "content": "hi"}])
    assert refused.value.body is not None
    assert refused.value.body["type"] == "error"  # type: ignore[index]


def test_a_call_without_a_token_is_refused(google: Google) -> None:
    reply = httpx2.get(f"{google.emulator.url_of('vertex')}/{google.version}/projects/p/locations/global/batchPredictionJobs")
    assert (reply.status_code, reply.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
