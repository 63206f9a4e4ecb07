"""Mistral's API, driven by the official SDK over real HTTP: it raises if a field of a reply is missing or of another type."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError

from keld.emulator import Emulator
from tests.emulator.conftest import FORMAT, Desk, read

QUESTION = [{"role": "user", "content": "Where is my invoice?"}]
MODEL = "mistral-small-latest"


def sdk(emulator: Emulator, api_key: str | None = None) -> Mistral:
    return Mistral(server_url=emulator.url_of("mistral").removesuffix("/v1"), api_key=api_key or emulator.api_key)


@pytest.fixture
def mistral(desk: Desk) -> Mistral:
    return sdk(desk.emulator)


def lines(count: int, **body: Any) -> bytes:
    asked = [{"custom_id": f"r-{n}", "body": {"max_tokens": 100, "messages": QUESTION, "random_seed": n, **body}} for n in range(count)]
    return b"\n".join(json.dumps(one).encode() for one in asked)


def upload(client: Mistral, content: bytes) -> str:
    return client.files.upload(file={"file_name": "in.jsonl", "content": content}, purpose="batch").id


def job(client: Mistral, content: bytes | None = None, **create: Any) -> Any:
    file_id = upload(client, lines(10) if content is None else content)
    return client.batch.jobs.create(
        **{"input_files": [file_id], "model": MODEL, "endpoint": "/v1/chat/completions", "metadata": {"keld_key": "a-1"}, **create}
    )


def content(client: Mistral, file_id: Any) -> list[dict[str, Any]]:
    return read(client.files.download(file_id=file_id).read())


def test_job_goes_its_way_and_answers_every_line(slow_desk: Desk) -> None:
    client = sdk(slow_desk.emulator)
    made = job(client)
    assert (made.status, made.total_requests, made.output_file, made.metadata) == ("QUEUED", 0, None, {"keld_key": "a-1"})
    slow_desk.emulator.advance(50)
    running = client.batch.jobs.get(job_id=made.id)
    assert (running.status, running.total_requests, running.completed_requests) == ("RUNNING", 10, 5)
    slow_desk.emulator.advance(50)
    ended = client.batch.jobs.get(job_id=made.id)
    assert (ended.status, ended.succeeded_requests, ended.failed_requests, ended.error_file) == ("SUCCESS", 10, 0, None)
    found = content(client, ended.output_file)
    assert sorted(line["custom_id"] for line in found) == [f"r-{n}" for n in range(10)]
    assert {line["response"]["body"]["model"] for line in found} == {MODEL}
    assert {(paid.provider, paid.lane, paid.batch_id) for paid in slow_desk.emulator.bill()} == {("mistral", "batch", made.id)}
    assert slow_desk.emulator.batches()[0]["status"] == "SUCCESS"


def test_a_line_without_an_id_is_answered_without_one(mistral: Mistral) -> None:
    """`custom_id` is optional there."""
    made = job(mistral, b'{"body":{"messages":[{"role":"user","content":"one"}]}}\n' + lines(1))
    found = content(mistral, mistral.batch.jobs.get(job_id=made.id).output_file)
    assert sorted(str(line["custom_id"]) for line in found) == ["None", "r-0"]


def test_refused_lines_are_in_the_error_file_with_their_own_status(mistral: Mistral) -> None:
    made = job(
        mistral, lines(2) + b"\n" + json.dumps({"custom_id": "x", "body": {"messages": QUESTION, "max_completion_tokens": 9}}).encode()
    )
    ended = mistral.batch.jobs.get(job_id=made.id)
    assert (ended.status, ended.succeeded_requests, ended.failed_requests) == ("SUCCESS", 2, 1)
    (line,) = content(mistral, ended.error_file)
    assert (line["custom_id"], line["response"]["status_code"]) == ("x", 422)
    (said,) = line["response"]["body"]["detail"]
    assert (said["type"], said["loc"]) == ("extra_forbidden", ["body", "max_completion_tokens"])


def test_jobs_are_listed_by_page_and_by_metadata(mistral: Mistral) -> None:
    """The SDK writes each entry of `metadata` as a query parameter of its own."""
    made = [job(mistral, lines(1), metadata={"keld_key": f"k-{n}"}).id for n in range(5)]
    pages = [mistral.batch.jobs.list(page=page, page_size=2) for page in range(4)]
    assert [one.total for one in pages] == [5] * 4
    assert [one.id for page in pages for one in page.data or []] == made[::-1]
    found = mistral.batch.jobs.list(metadata={"keld_key": "k-3"})
    assert ([one.id for one in found.data or []], found.total) == ([made[3]], 1)
    assert mistral.batch.jobs.list(status=["RUNNING"]).total == 0
    assert [one.id for one in mistral.batch.jobs.list(order_by="created", model=MODEL).data or []] == made


def test_jobs_are_listed_since_an_instant(desk: Desk) -> None:
    client = sdk(desk.emulator)
    job(client, lines(1))
    now = desk.emulator.advance(3600)
    young = job(client, lines(1))
    assert [one.id for one in client.batch.jobs.list(created_after=now - timedelta(minutes=1)).data or []] == [young.id]


def test_cancelled_job_hands_out_what_was_answered(slow_desk: Desk) -> None:
    client = sdk(slow_desk.emulator)
    made = job(client)
    slow_desk.emulator.advance(50)
    assert client.batch.jobs.cancel(job_id=made.id).status == "CANCELLATION_REQUESTED"
    slow_desk.emulator.advance(10)
    ended = client.batch.jobs.get(job_id=made.id)
    assert ended.status == "CANCELLED"
    assert len(content(client, ended.output_file)) == ended.completed_requests == len(slow_desk.emulator.bill()) > 0
    with pytest.raises(SDKError, match="400"):
        client.batch.jobs.cancel(job_id=made.id)


def test_job_past_its_own_time_is_timed_out(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(latency_s=100 * 3600)
    client = sdk(desk.emulator)
    made = job(client, timeout_hours=48)
    desk.emulator.advance(timedelta(hours=47))
    assert client.batch.jobs.get(job_id=made.id).status == "RUNNING"
    desk.emulator.advance(timedelta(hours=1))
    ended = client.batch.jobs.get(job_id=made.id)
    assert (ended.status, ended.completed_requests) == ("TIMEOUT_EXCEEDED", 4)
    assert len(content(client, ended.output_file)) == 4


def test_results_are_there_for_a_day(desk: Desk) -> None:
    client = sdk(desk.emulator)
    made = job(client, lines(1))
    ended = client.batch.jobs.get(job_id=made.id)
    desk.emulator.advance(timedelta(hours=24))
    with pytest.raises(SDKError, match="404"):
        content(client, ended.output_file)


def test_files_are_stored_shown_and_deleted(mistral: Mistral) -> None:
    file_id = upload(mistral, lines(2))
    shown = mistral.files.retrieve(file_id=file_id)
    assert (shown.size_bytes, shown.purpose, shown.sample_type, shown.source) == (len(lines(2)), "batch", "batch_request", "upload")
    assert mistral.files.delete(file_id=file_id).deleted
    with pytest.raises(SDKError, match="404"):
        mistral.batch.jobs.create(input_files=[file_id], model=MODEL, endpoint="/v1/chat/completions")


def test_a_late_create_without_its_input_makes_nothing(desk: Desk) -> None:
    client = sdk(desk.emulator)
    desk.fault("create", "late_landing", after_s=60, status=503)
    file_id = upload(client, lines(1))
    with pytest.raises(SDKError, match="503"):
        client.batch.jobs.create(input_files=[file_id], model=MODEL, endpoint="/v1/chat/completions")
    client.files.delete(file_id=file_id)
    desk.emulator.advance(120)
    assert client.batch.jobs.list().total == 0


@pytest.mark.parametrize(
    ("create", "words"),
    [
        ({"endpoint": "/v1/moderations"}, "not supported"),
        ({"timeout_hours": 169}, "between 1 and 168"),
        ({"model": "does-not-exist"}, "Invalid model"),
        ({"input_files": ["file-none"]}, "not found"),
    ],
)
def test_a_create_that_the_service_refuses(mistral: Mistral, create: dict[str, Any], words: str) -> None:
    with pytest.raises(SDKError, match=words):
        job(mistral, **create)


def test_a_full_queue_refuses_the_create_with_a_rate_limit(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(latency_s=100, enqueued_token_limit=600)
    client = sdk(desk.emulator)
    job(client)
    with pytest.raises(SDKError) as refused:
        job(client)
    assert json.loads(refused.value.body)["code"] == "1300"
    desk.emulator.advance(100)
    job(client)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "between 1 and"), (b"{}\n", "Line 1"), (lines(1) + b"\n" + lines(1), "Line 2 repeats")],
    ids=["empty", "bad", "twice"],
)
def test_an_input_that_is_not_valid_fails_the_job(mistral: Mistral, content: bytes, words: str) -> None:
    ended = mistral.batch.jobs.get(job_id=job(mistral, content).id)
    assert (ended.status, ended.output_file) == ("FAILED", None)
    assert words in ended.errors[0].message


def test_chat_answers_at_once_and_fits_the_schema(desk: Desk) -> None:
    client = sdk(desk.emulator)
    answer = client.chat.complete(model=MODEL, messages=QUESTION, response_format=FORMAT, max_tokens=100)  # type: ignore[arg-type]  # plain dicts
    said = json.loads(str(answer.choices[0].message.content))  # type: ignore[union-attr]
    assert said["category"] in ("billing", "bug")
    assert answer.usage.prompt_tokens == desk.emulator.bill()[0].input_tokens


def test_the_beginning_of_prompts_is_cached_only_with_a_key(mistral: Mistral) -> None:
    messages: Any = [{"role": "system", "content": "Be brief. " * 1000}, *QUESTION]

    def cached(**more: Any) -> Any:
        answer = mistral.chat.complete(model=MODEL, messages=messages, **more)
        return answer.usage.model_extra["prompt_tokens_details"]["cached_tokens"]  # type: ignore[index]

    assert [cached(), cached(), cached(prompt_cache_key="k"), cached(prompt_cache_key="other")] == [0, 0, 0, 0]
    assert cached(prompt_cache_key="k") > 1000


@pytest.mark.parametrize(
    ("schema", "words"),
    [({"type": "object", "properties": {}}, "Missing `additionalProperties: False`"), ({"$id": "x", "type": "string"}, "Grammar error")],
)
def test_a_schema_that_strict_mode_does_not_take(mistral: Mistral, schema: dict[str, Any], words: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "one", "schema": schema, "strict": True}}
    with pytest.raises(SDKError, match=words):
        mistral.chat.complete(model=MODEL, messages=QUESTION, response_format=form)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ({"top_p": 0.0}, HTTPValidationError, "greater than 0"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "x"}]}, SDKError, "Expected last role User"),
        ({"model": "does-not-exist"}, SDKError, "Invalid model"),
    ],
)
def test_a_body_that_the_service_refuses(mistral: Mistral, body: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        mistral.chat.complete(**{"model": MODEL, "messages": QUESTION, **body})


def test_embeddings_have_the_model_s_own_size_or_the_one_asked_for(mistral: Mistral) -> None:
    assert len(mistral.embeddings.create(model="mistral-embed", inputs=["one", "two"]).data[1].embedding or []) == 1024
    assert len(mistral.embeddings.create(model="codestral-embed", inputs="one", output_dimension=256).data[0].embedding or []) == 256
    with pytest.raises(SDKError, match="not supported"):
        mistral.embeddings.create(model="mistral-embed", inputs="one", output_dimension=256)


def test_a_wrong_key_is_refused(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(api_keys=["right"])
    with pytest.raises(SDKError, match="401"):
        sdk(desk.emulator, "wrong").models.list()
    assert MODEL in str(sdk(desk.emulator, "right").models.list().data)
