"""Mistral's own traps: the model is the job's, bodies take no unknown field, errors are flat, the search by metadata was never seen to be honoured."""

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import httpx2
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from keld import Embedding, Keld
from keld.emulator import Emulator, Endpoint
from keld.emulator.services.mistral import Mistral
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.base import BatchState, Created, QueueFull, Refused, SendOutcome, Settled
from keld.providers.dialects.mistral import error_in
from keld.request import Question
from keld.schema import output_schema
from tests.providers.conftest import Wire
from tests.providers.test_schema_rules import RULES, takes
from tests.support.ticket_job import Label, Peer, billed_usd, check_promise, creates, fault, mistral, outcomes, run, tickets, triage

HOUR = timedelta(hours=1)


@pytest.fixture
def wire(open_wire: Callable[[Peer], Wire]) -> Wire:
    return open_wire(mistral)


def lines(wire: Wire, *prompts: Any, **question: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in wire.file(list(prompts), **question).read_bytes().split(b"\n") if line]


# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_line_is_an_id_and_a_body_and_no_more(wire: Wire) -> None:
    (line,) = lines(wire, "hello")
    assert set(line) == {"custom_id", "body"}
    body = line["body"]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert body["max_tokens"] == 256
    assert body["response_format"]["json_schema"]["strict"] is True
    assert "model" not in body


def test_the_job_has_the_model_the_mark_and_the_time_limit(wire: Wire) -> None:
    batch = wire.create(nonce="mynonce000")
    assert batch.key == "mynonce000-1"
    (held,) = wire.emulator.batches()
    assert (held["model"], held["metadata"], held["endpoint"]) == (mistral.model, {"keld_key": "mynonce000-1"}, "/v1/chat/completions")


def test_rows_with_the_same_beginning_share_a_cache_key(wire: Wire) -> None:
    """Without one nothing is cached there; with one, writes are free and reads cost a tenth."""
    one, two = lines(wire, "one", "two")
    assert one["body"]["prompt_cache_key"] == two["body"]["prompt_cache_key"]
    assert lines(wire, "one", system="Other.")[0]["body"]["prompt_cache_key"] != one["body"]["prompt_cache_key"]
    assert "prompt_cache_key" not in lines(wire, "one", system=None)[0]["body"]
    assert lines(wire, "one", params={"prompt_cache_key": "mine"})[0]["body"]["prompt_cache_key"] == "mine"


def test_what_came_from_the_cache_is_counted(wire: Wire) -> None:
    replies = wire.replies(wire.ended(3, system="Be brief. " * 1000))
    assert sum(reply.cached_tokens for reply in replies) == sum(paid.cached_tokens for paid in wire.emulator.bill()) > 0


@pytest.mark.parametrize("model", ["mistral-embed", "codestral-embed"])
def test_embeddings_are_asked_for_by_their_size_where_the_model_takes_one(open_wire: Callable[[Peer], Wire], model: str) -> None:
    wire = open_wire(Peer(name="mistral", model=model, creates=mistral.creates))
    output = output_schema(Embedding(dimensions=1024)).to_json()
    (line,) = lines(wire, "hello", output=output)
    assert line["body"] == {"input": "hello"} | ({} if model == "mistral-embed" else {"output_dimension": 1024})
    ended = wire.ended(2, output=output, endpoint="/v1/embeddings")
    assert [len(reply.content) for reply in wire.replies(ended)] == [1024, 1024]


def test_a_size_that_the_model_does_not_have_is_an_obstacle(wire: Wire) -> None:
    output = output_schema(Embedding(dimensions=8)).to_json()
    assert "1,024" in str(wire.provider.fit(Question(system=None, output=output), "mistral-embed").obstacle)


def test_an_output_that_strict_mode_may_not_take_is_asked_for_without_it(wire: Wire) -> None:
    node = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["kids"]}
    recursive = output_schema({"$ref": "#/$defs/node", "$defs": {"node": node}, "$schema": "https://json-schema.org/draft/2020-12/schema"})
    (line,) = lines(wire, "hello", output=recursive.to_json())
    form = line["body"]["response_format"]["json_schema"]
    assert form["strict"] is False
    assert "$schema" not in form["schema"]
    assert wire.provider.fit(Question(system=None, output=recursive.to_json()), mistral.model).note


@pytest.mark.parametrize("name", RULES)
def test_each_schema_is_taken_in_the_form_that_keld_sends(wire: Wire, name: str) -> None:
    """Where strict mode may not take it, the model is only told, and each answer is checked as everywhere."""
    output = output_schema(RULES[name].schema)
    encoder = wire.provider.encoder(Question(system=None, output=output.to_json(), max_output_tokens=100_000), mistral.model, "a" * 10)
    body = encoder.body(b'"hi"', Lane.STANDARD)
    key = {"authorization": f"Bearer {wire.emulator.api_key}"}
    reply = httpx2.post(f"{wire.emulator.url_of('mistral')}/chat/completions", content=body, headers=key)
    assert reply.status_code == 200, reply.text
    if json.loads(body)["response_format"]["json_schema"]["strict"]:
        assert takes(output, reply.json()["choices"][0]["message"]["content"], RULES[name].unheld)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_the_error_is_found_in_each_of_its_shapes() -> None:
    said: Mapping[str, Any] = {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": None, "code": "1300"}
    assert error_in(said, {}) == {"message": "Rate limit exceeded", "code": "1300", "type": "rate_limited"}
    detail = [{"type": "extra_forbidden", "loc": ["body", "n", 0], "msg": "Extra inputs are not permitted", "input": "CANARY"}]
    found = {"message": "body.n.0: Extra inputs are not permitted", "type": "extra_forbidden"}
    assert error_in({"detail": detail}, {}) == found
    assert error_in({"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"}, {}) == found
    assert error_in({"detail": "Unauthorized"}, {}) == {"message": "Unauthorized", "type": "http_error"}
    assert error_in({"error": "x"}, {}) is None


def test_a_full_queue_is_no_fault_of_the_file(open_emulator: Callable[..., Emulator], tmp_path: Any) -> None:
    wire = Wire(mistral, open_emulator(enqueued_token_limit=600), tmp_path)
    wire.create(3)
    assert isinstance(wire.provider.create(wire.submission(3, "b" * 10)), QueueFull)


def test_an_unknown_model_is_for_a_person_to_mend(open_wire: Callable[[Peer], Wire]) -> None:
    wire = open_wire(Peer(name="mistral", model="does-not-exist", creates=mistral.creates))
    outcome = wire.provider.create(wire.submission())
    assert isinstance(outcome, Refused)
    assert (outcome.status, outcome.code, outcome.own, outcome.permanent) == (400, "1500", True, False)


def test_a_refused_row_has_the_service_s_own_words(wire: Wire) -> None:
    replies = wire.replies(wire.ended(1, params={"top_p": 0}))
    assert [(reply.outcome, reply.error, reply.retryable) for reply in replies] == [
        (Outcome.ERRORED, f"HTTP 422 {HTTPStatus(422).phrase}: Input should be greater than 0", False)
    ]


@pytest.mark.parametrize(("finish", "why"), [("model_length", "cut off"), ("error", "with an error")])
def test_an_end_that_is_none_is_no_answer(wire: Wire, finish: str, why: str) -> None:
    body = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "{}"}, "finish_reason": finish}],
        "usage": {"completion_tokens": 7},
    }
    line = json.dumps({"custom_id": "a-0", "response": {"status_code": 200, "body": body}, "error": None}).encode()
    (reply,) = wire.read(line)
    assert (reply.outcome, reply.output_tokens) == (Outcome.INVALID, 7)
    assert why in str(reply.error)


def test_the_thoughts_of_a_model_are_not_its_answer(wire: Wire) -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "{}"}]
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}
    (reply,) = wire.read(json.dumps({"custom_id": "a-0", "response": {"status_code": 200, "body": body}, "error": None}).encode())
    assert (reply.outcome, reply.content) == (Outcome.ANSWERED, "{}")


# --- looking ----------------------------------------------------------------------------------------------------------


class Filtering(Mistral):
    """A service whose filter by metadata does something else."""

    def routes(self) -> list[Endpoint]:
        return [
            Endpoint(operation=one.operation, method=one.method, path=one.path, handler=self.list_jobs) if one.operation == "list" else one
            for one in super().routes()
        ]

    async def list_jobs(self, request: Request) -> Response:
        raise NotImplementedError


class Ignored(Filtering):
    async def list_jobs(self, request: Request) -> Response:
        query = request.scope["query_string"].decode().split("&")
        request.scope["query_string"] = "&".join(part for part in query if not part.startswith("keld_key=")).encode()
        return await self.jobs.list(Request(request.scope))


class Misread(Filtering):
    async def list_jobs(self, request: Request) -> Response:
        if "keld_key" in request.query_params:
            return JSONResponse({"object": "list", "data": [], "total": 0})
        return await self.jobs.list(request)


@pytest.mark.parametrize("service", [Mistral, Ignored, Misread])
def test_a_batch_is_found_by_its_mark_whatever_the_filter_does(
    open_emulator: Callable[..., Emulator], tmp_path: Any, service: type[Mistral]
) -> None:
    """Only the mark in the job itself counts; and an empty answer proves nothing before the whole list was read."""
    emulator = open_emulator(services={"mistral": service})
    wire = Wire(mistral, emulator, tmp_path)
    made = {nonce: wire.create(1, nonce).id for nonce in ("a" * 10, "b" * 10, "c" * 10)}
    since = emulator.now() - HOUR
    assert [batch.id for batch in wire.provider.find(f"{'b' * 10}-1", since)] == [made["b" * 10]]
    assert wire.provider.find("never-1", since) == []


def test_a_doubled_create_is_found_twice(wire: Wire) -> None:
    fault(wire.emulator, "create", "twice")
    wire.create(1, "b" * 10)
    assert len(wire.provider.find(f"{'b' * 10}-1", wire.emulator.now() - HOUR)) == 2


def test_the_sdk_s_missing_field_is_no_lost_create(wire: Wire) -> None:
    """mistralai raises on a created job whose reply lacks a field."""
    submission = wire.submission()
    made = wire.provider.create(submission)
    assert isinstance(made, Created)
    body = {"id": made.batch.id, "status": "QUEUED"}
    fault(wire.emulator, "create", "garbage", body=json.dumps(body))
    outcome = wire.provider.create(submission)
    assert isinstance(outcome, Created)
    assert (outcome.batch.id, outcome.batch.state) == (made.batch.id, BatchState.IN_PROGRESS)


# --- the fast lane ----------------------------------------------------------------------------------------------------


def test_a_fast_lane_names_the_model_and_reads_the_limits(open_emulator: Callable[..., Emulator], tmp_path: Any) -> None:
    wire = Wire(mistral, open_emulator(requests_per_minute=10, tokens_per_minute=100_000), tmp_path)
    encoder = wire.provider.encoder(Question(system=None, output=output_schema(Label).to_json()), mistral.model, "a" * 10)
    body = encoder.body(b'"hello"', Lane.STANDARD)
    assert json.loads(body)["model"] == mistral.model

    async def sent() -> SendOutcome:
        async with wire.provider.sender(encoder.path, lambda: 10.0, 1) as send:
            return await send("a-0", body)

    outcome = asyncio.run(sent())
    assert isinstance(outcome, Settled)
    assert {kind: (quota.limit, quota.reset_s) for kind, quota in outcome.quotas.items()} == {"requests": (10, 60), "tokens": (100_000, 60)}


# --- whole job runs ---------------------------------------------------------------------------------------------------


def test_a_job_run_pays_each_row_once(keld: Keld, emulator: Emulator) -> None:
    table = tickets()
    status = run(keld, emulator, triage(mistral), table)
    check_promise(keld, emulator, status, table)


def test_a_job_run_in_the_fast_lane_pays_each_row_once(keld: Keld, emulator: Emulator) -> None:
    status = run(keld, emulator, triage(mistral, lane="standard"))
    assert outcomes(keld, status) == ["answered"] * 6
    assert [entry.lane for entry in emulator.bill()] == ["standard"] * 6
    assert status.cost_usd == billed_usd(emulator, status.created_at)


@pytest.mark.parametrize(
    ("do", "how", "sent"),
    [("drop_after", {}, 1), ("drop_before", {}, 2), ("late_landing", {"after_s": 200}, 1), ("late_landing", {"after_s": 3600}, 2)],
)
def test_a_lost_create_is_paid_once(keld: Keld, emulator: Emulator, do: str, how: dict[str, Any], sent: int) -> None:
    """It is looked for by its mark, its input is removed, and only then it is sent again."""
    table = tickets()
    fault(emulator, "create", do, **how)
    status = run(keld, emulator, triage(mistral), table)
    check_promise(keld, emulator, status, table)
    assert len(creates(emulator, mistral)) == sent
