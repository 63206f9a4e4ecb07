"""The emulator's Gemini, driven by the official SDK over HTTP, sync and async, in both versions of the API."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import errors, types

from keld.emulator import Emulator

FLASH, EMBEDDING = "gemini-2.5-flash", "gemini-embedding-001"
SCHEMA = {"type": "OBJECT", "properties": {"label": {"type": "STRING", "enum": ["a", "b"]}}, "required": ["label"]}
Open = Callable[..., Emulator]


@pytest.fixture(params=["v1beta", "v1"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def emulator(open_emulator: Open) -> Emulator:
    return open_emulator(latency_s=100)


def connect(emulator: Emulator, version: str = "v1beta") -> genai.Client:
    # A client of its own: with aiohttp installed the SDK would send a broken call twice.
    options = types.HttpOptions(base_url=emulator.url_of("gemini"), api_version=version, httpx_async_client=httpx2.AsyncClient())
    return genai.Client(api_key=emulator.api_key, http_options=options)


def requests_file(folder: Path, rows: int, request: dict[str, Any] | None = None) -> Path:
    path = folder / "requests.jsonl"
    body = request or {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 200}}
    path.write_text("".join(json.dumps({"key": f"row-{n}", "request": body}) + "\n" for n in range(rows)))
    return path


def submitted(client: genai.Client, path: Path, model: str = FLASH) -> types.BatchJob:
    file = client.files.upload(file=path, config={"display_name": "in", "mime_type": "application/jsonl"})
    return client.batches.create(model=model, src=str(file.name), config={"display_name": "mark-1"})


def lines(client: genai.Client, job: types.BatchJob) -> list[dict[str, Any]]:
    assert job.dest is not None
    content = client.files.download(file=str(job.dest.file_name))
    return [json.loads(line) for line in content.split(b"\n") if line]


def test_a_file_becomes_a_batch_and_its_responses_a_file(emulator: Emulator, version: str, tmp_path: Path) -> None:
    client = connect(emulator, version)
    job = submitted(client, requests_file(tmp_path, 5))
    assert (job.display_name, job.state, job.model) == ("mark-1", types.JobState.JOB_STATE_PENDING, f"models/{FLASH}")
    emulator.advance(50)
    assert client.batches.get(name=str(job.name)).state is types.JobState.JOB_STATE_RUNNING
    emulator.advance(50)
    ended = client.batches.get(name=str(job.name))
    assert ended.state is types.JobState.JOB_STATE_SUCCEEDED
    found = lines(client, ended)
    assert sorted(line["key"] for line in found) == [f"row-{n}" for n in range(5)]
    usage = [line["response"]["usageMetadata"] for line in found]
    bill = [entry for entry in emulator.bill() if entry.provider == "gemini"]
    assert sorted(one["promptTokenCount"] for one in usage) == sorted(entry.input_tokens for entry in bill)
    assert sorted(one["candidatesTokenCount"] + one["thoughtsTokenCount"] for one in usage) == sorted(entry.output_tokens for entry in bill)


def test_a_file_larger_than_a_piece_arrives_whole_though_a_piece_fails_once(emulator: Emulator, tmp_path: Path) -> None:
    """The SDK sends a piece that got no upload status again, at the same offset."""
    body = {"contents": [{"parts": [{"text": "x" * 1_000_000}]}], "generationConfig": {"maxOutputTokens": 20}}
    path = requests_file(tmp_path, 9, body)
    emulator.faults({"rules": [{"at": "upload", "do": "status", "status": 503, "skip": 2}]})
    client = connect(emulator)
    file = client.files.upload(file=path, config={"mime_type": "application/jsonl"})
    assert file.size_bytes == path.stat().st_size > 8 << 20
    uploads = [call.status for call in emulator.requests() if "/upload/" in call.path]
    assert uploads == [200, 200, 503, 200]


def test_an_upload_is_gone_after_two_days_and_nobody_says_that_it_was_there(emulator: Emulator, tmp_path: Path) -> None:
    client = connect(emulator)
    file = client.files.upload(file=requests_file(tmp_path, 1), config={"mime_type": "application/jsonl"})
    assert client.files.get(name=str(file.name)).state is types.FileState.ACTIVE
    emulator.advance(48 * 3600)
    with pytest.raises(errors.ClientError, match=r"403 PERMISSION_DENIED.*or it may not exist"):
        client.files.get(name=str(file.name))
    with pytest.raises(errors.ClientError, match="or it may not exist"):
        client.batches.create(model=FLASH, src=str(file.name), config={"display_name": "late"})


@pytest.mark.parametrize(("do", "state"), [("expire", "EXPIRED"), ("cancel", "CANCELLED")])
def test_a_batch_that_did_not_end_gives_nothing_back_though_its_rows_are_paid(
    emulator: Emulator, tmp_path: Path, do: str, state: str
) -> None:
    client = connect(emulator)
    if do == "expire":
        emulator.faults({"rules": [{"at": "life", "do": "expire", "done": 0.5}]})
    job = submitted(client, requests_file(tmp_path, 8))
    emulator.advance(50)
    if do == "cancel":
        client.batches.cancel(name=str(job.name))
        assert client.batches.get(name=str(job.name)).state is types.JobState.JOB_STATE_RUNNING, "it says nothing of a cancel under way"
    emulator.advance(48 * 3600)
    ended = client.batches.get(name=str(job.name))
    assert ended.state is types.JobState(f"JOB_STATE_{state}")
    assert ended.dest is None or ended.dest.file_name is None
    assert len(emulator.bill()) >= 4


def test_the_list_is_paged_by_a_token_in_an_order_that_says_nothing(emulator: Emulator, tmp_path: Path) -> None:
    client = connect(emulator)
    file = client.files.upload(file=requests_file(tmp_path, 1), config={"mime_type": "application/jsonl"})
    made = [client.batches.create(model=FLASH, src=str(file.name), config={"display_name": f"n{n}"}).name for n in range(12)]
    found = [job.name for job in client.batches.list(config={"page_size": 5})]
    assert sorted(map(str, found)) == sorted(map(str, made))
    assert found not in (made, made[::-1])


def test_creates_beyond_the_quota_are_refused_at_once(open_emulator: Open, tmp_path: Path) -> None:
    emulator = open_emulator(latency_s=100, enqueued_token_limit=60)
    client = connect(emulator)
    submitted(client, requests_file(tmp_path, 1))
    with pytest.raises(errors.ClientError, match="429 RESOURCE_EXHAUSTED"):
        submitted(client, requests_file(tmp_path, 1))
    emulator.advance(100)
    submitted(client, requests_file(tmp_path, 1))


def test_a_file_without_requests_fails_later_with_its_reason(emulator: Emulator, tmp_path: Path) -> None:
    client = connect(emulator)
    path = tmp_path / "requests.jsonl"
    path.write_text('{"custom_id": "a"}\n')
    job = submitted(client, path)
    emulator.advance(100)
    assert client.batches.get(name=str(job.name)).state is types.JobState.JOB_STATE_FAILED
    raw = httpx2.get(f"{emulator.url_of('gemini')}/v1beta/{job.name}", headers={"x-goog-api-key": emulator.api_key}).json()
    assert raw["error"]["code"] == 3
    assert "Line 1 of the input file is no request" in raw["error"]["message"]


def test_what_a_row_is_refused_for_stands_in_its_line(emulator: Emulator, tmp_path: Path) -> None:
    client = connect(emulator)
    emulator.faults({"rules": [{"at": "rows", "do": "error", "status": 500, "count": 2}]})
    job = submitted(client, requests_file(tmp_path, 4))
    emulator.advance(100)
    found = lines(client, client.batches.get(name=str(job.name)))
    refused = [line.get("error") or line["status"] for line in found if "response" not in line]
    assert [one["code"] for one in refused] == [13, 13]


def test_embeddings_in_a_batch_and_alone_are_the_same_vectors(emulator: Emulator, tmp_path: Path) -> None:
    client = connect(emulator)
    alone = client.models.embed_content(model=EMBEDDING, contents="hi", config={"output_dimensionality": 8})
    assert alone.embeddings is not None
    path = requests_file(tmp_path, 2, {"content": {"parts": [{"text": "hi"}]}, "output_dimensionality": 8})
    file = client.files.upload(file=path, config={"mime_type": "application/jsonl"})
    job = client.batches.create_embeddings(model=EMBEDDING, src={"file_name": str(file.name)}, config={"display_name": "e"})
    emulator.advance(100)
    found = lines(client, client.batches.get(name=str(job.name)))
    assert [line["response"]["embedding"]["values"] for line in found] == [alone.embeddings[0].values] * 2


def test_a_call_is_answered_at_once_with_a_schema_and_in_flex(emulator: Emulator, version: str) -> None:
    client = connect(emulator, version)
    config = types.GenerateContentConfig(
        max_output_tokens=100, response_mime_type="application/json", response_schema=SCHEMA, service_tier=types.ServiceTier.FLEX
    )
    made = client.models.generate_content(model=FLASH, contents="hi", config=config)
    assert json.loads(str(made.text))["label"] in ("a", "b")
    assert [entry.lane for entry in emulator.bill()] == ["flex"]


def test_the_async_client_is_served_too(emulator: Emulator, tmp_path: Path) -> None:
    async def drive() -> list[Any]:
        client = connect(emulator).aio
        file = await client.files.upload(file=requests_file(tmp_path, 2), config={"mime_type": "application/jsonl"})
        job = await client.batches.create(model=FLASH, src=str(file.name), config={"display_name": "aio"})
        emulator.advance(100)
        job = await client.batches.get(name=str(job.name))
        assert job.dest is not None
        said = await client.models.generate_content(model=FLASH, contents="hi")
        return [job.state, len((await client.files.download(file=str(job.dest.file_name))).splitlines()), said.candidates is not None]

    assert asyncio.run(drive()) == [types.JobState.JOB_STATE_SUCCEEDED, 2, True]


def test_the_environment_leads_the_sdk_here(emulator: Emulator) -> None:
    """As users run it: no address, no version, no key in the code."""
    assert genai.Client().models.generate_content(model=FLASH, contents="hi").text
    assert [call.path for call in emulator.requests()] == [f"/gemini/v1/models/{FLASH}:generateContent"]


def test_a_key_is_needed_and_a_wrong_one_is_a_bad_request(open_emulator: Open) -> None:
    emulator = open_emulator(api_keys=["right"])
    address = f"{emulator.url_of('gemini')}/v1beta/batches"
    assert httpx2.get(address).json()["error"]["status"] == "PERMISSION_DENIED"
    wrong = httpx2.get(address, headers={"x-goog-api-key": "wrong"})
    assert (wrong.status_code, wrong.json()["error"]["details"][0]["reason"]) == (400, "API_KEY_INVALID")
    assert httpx2.get(address, headers={"x-goog-api-key": "right"}).json() == {}


def test_a_create_without_a_name_or_with_a_strange_field_is_refused(emulator: Emulator) -> None:
    address = f"{emulator.url_of('gemini')}/v1beta/models/{FLASH}:batchGenerateContent"
    for batch, words in [({"inputConfig": {"fileName": "files/a"}}, "display_name"), ({"inputConfig": {}, "metadata": {}}, "metadata")]:
        refused = httpx2.post(address, json={"batch": batch}, headers={"x-goog-api-key": "k"})
        assert refused.status_code == 400
        assert words in refused.json()["error"]["message"]
