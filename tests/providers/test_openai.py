"""OpenAI's own traps: files that are null, empty or not there, validation that fails minutes later, three endpoints.

The traps are those of docs/notes/providers.md.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anthropic as anthropic_sdk
import openai as openai_sdk
import pytest

from keld import Account, Embedding
from keld.errors import AccessRefused, ProviderUnreachable
from keld.outcome import Outcome
from keld.patience import Patience
from keld.providers.base import BatchState, Submission
from keld.providers.kinds import preset_of
from keld.providers.part import Connection, Outgoing
from keld.providers.provider import Provider, connect
from keld.providers.transports.openai_files import auth
from keld.schema import output_schema
from tests.providers.conftest import Wire
from tests.support.ticket_job import Label, Peer, anthropic, fault, openai


@pytest.fixture
def wire(open_wire: Callable[[Peer], Wire]) -> Wire:
    return open_wire(openai)


def bodies(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["body"] for line in path.read_bytes().split(b"\n") if line]


# --- asking -----------------------------------------------------------------------------------------------------------


def test_the_batch_carries_our_key_and_the_file_our_name(wire: Wire) -> None:
    """Trap 4: without a mark of ours an orphan cannot be told from anybody's batch."""
    batch = wire.create(nonce="mynonce000")
    assert batch.key == "mynonce000-1"
    (held,) = wire.emulator.batches()
    uploaded = openai_sdk.OpenAI().files.retrieve(held["input_file_id"])
    assert uploaded.filename == "keld-mynonce000.jsonl"


def test_a_line_is_a_request_of_its_own(wire: Wire) -> None:
    """Trap 9: the endpoint and the model of every line must be the batch's."""
    (line,) = [json.loads(one) for one in wire.file(["hello"]).read_bytes().split(b"\n") if one]
    assert (line["method"], line["url"], line["body"]["model"]) == ("POST", "/v1/chat/completions", "gpt-5-mini")
    assert line["body"]["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert line["body"]["max_completion_tokens"] == 256
    assert line["body"]["response_format"]["json_schema"]["strict"] is True


def test_a_list_of_messages_follows_the_shared_system_prompt(wire: Wire) -> None:
    """A conversation is the row's own; what all rows share stands before it."""
    said = [{"role": "system", "content": "Row's own."}, {"role": "user", "content": "hello"}]
    (body,) = bodies(wire.file([said]))
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, *said]


def test_a_list_of_messages_without_a_system_prompt_stands_alone(wire: Wire) -> None:
    """No empty system message is made up."""
    said = [{"role": "user", "content": "hello"}]
    (body,) = bodies(wire.file([said], system=None))
    assert body["messages"] == said


@pytest.mark.parametrize("prompt", ["hello", [{"role": "user", "content": "hello"}]], ids=["text", "messages"])
def test_the_responses_endpoint_has_its_own_words(wire: Wire, prompt: Any) -> None:
    """The same question in another dialect of the same provider."""
    (body,) = bodies(wire.file([prompt], endpoint="/v1/responses"))
    assert (body["input"], body["instructions"], body["max_output_tokens"]) == (prompt, "Be brief.", 256)
    assert body["text"]["format"]["schema"]["additionalProperties"] is False


def test_embeddings_are_asked_for_by_their_size(wire: Wire) -> None:
    """A vector of another length would not fit the column."""
    (body,) = bodies(wire.file(["hello"], output=output_schema(Embedding(dimensions=8)).to_json()))
    assert (body["input"], body["dimensions"]) == ("hello", 8)
    assert "messages" not in body


def test_params_are_added_to_every_body(wire: Wire) -> None:
    assert bodies(wire.file(["hello"], params={"temperature": 0}))[0]["temperature"] == 0


def test_an_output_that_strict_mode_does_not_know_is_asked_for_without_it(wire: Wire) -> None:
    """In strict mode the provider would refuse every line."""
    free_form = output_schema({"type": "object", "properties": {"any": {"type": "object"}}, "required": ["any"]})
    (body,) = bodies(wire.file(["hello"], output=free_form.to_json()))
    assert body["response_format"]["json_schema"]["strict"] is False


def test_validation_that_fails_later_is_told_with_its_code(wire: Wire) -> None:
    """Trap 5: the create was answered with 200."""
    fault(wire.emulator, "life", "fail", code="invalid_json_line", message="Line 2 is broken.", line=2)
    batch = wire.look(wire.create())
    assert batch.state is BatchState.FAILED
    assert batch.errors == (("invalid_json_line", "Line 2 is broken."),)
    assert not batch.queue_full


def test_a_full_queue_is_told_from_a_broken_file(wire: Wire) -> None:
    """Trap 6: `token_limit_exceeded` is back-pressure, told in the same words as a fault of the file."""
    fault(wire.emulator, "life", "token_limit")
    batch = wire.look(wire.create())
    assert batch.state is BatchState.FAILED
    assert batch.queue_full


def test_a_full_queue_on_create_is_told_from_a_bad_request(wire: Wire) -> None:
    """Trap 6: fail-fast regions answer the create itself with 400."""
    submission = wire.submission()
    fault(wire.emulator, "create", "status", status=400, code="token_limit_exceeded")
    assert type(wire.provider.create(submission)).__name__ == "QueueFull"


def test_the_same_file_may_be_sent_again(wire: Wire) -> None:
    """Trap 6: the upload lives on, and need not be repeated."""
    fault(wire.emulator, "life", "token_limit")
    submission = wire.submission()
    first = wire.provider.create(submission)
    second = wire.provider.create(submission)
    assert wire.look(first.batch).queue_full  # type: ignore[union-attr]
    assert wire.look(second.batch).state is BatchState.IN_PROGRESS  # type: ignore[union-attr]


# --- result files -----------------------------------------------------------------------------------------------------


def test_completed_with_every_row_refused_has_no_output_file(wire: Wire) -> None:
    """Traps 15 and 20: `completed`, `output_file_id` null, everything in the error file."""
    fault(wire.emulator, "rows", "error", status=400)
    ended = wire.ended()
    assert ended.state is BatchState.COMPLETED
    assert len(ended.result_refs) == 1
    assert [reply.outcome for reply in wire.replies(ended)] == [Outcome.ERRORED] * 3


@pytest.mark.parametrize("how", ["no_error_id", "empty_error_id", "zero_byte_error"])
def test_an_error_file_may_be_null_nameless_or_empty(wire: Wire, how: str) -> None:
    """Trap 20: `/files//content` is a 404, zero bytes are no line."""
    fault(wire.emulator, "results", how)
    assert len(wire.replies(wire.ended())) == 3


def test_a_completed_batch_may_name_no_output_file(wire: Wire) -> None:
    """Trap 20: then what was answered is in no file, and the rows are told as lost."""
    fault(wire.emulator, "results", "no_output_id")
    assert wire.replies(wire.ended()) == []


def test_both_files_are_read_the_answers_first(wire: Wire) -> None:
    """Trap 20: an answer beats an error of the same row."""
    fault(wire.emulator, "rows", "error", status=500, count=2)
    replies = wire.replies(wire.ended(6))
    assert [reply.outcome for reply in replies] == [Outcome.ANSWERED] * 4 + [Outcome.ERRORED] * 2


def test_a_file_that_is_gone_already_is_removed_without_a_fault(wire: Wire) -> None:
    """The fence may be set up twice: a worker died in between."""
    submission = wire.submission()
    assert submission.input_ref is not None
    wire.provider.delete_input(submission.input_ref)
    wire.provider.delete_input(submission.input_ref)


def test_a_page_of_html_is_no_removal(wire: Wire) -> None:
    """A proxy's own page has status 200, too; were it believed, the create could land behind the fence, beside the one that is sent again."""
    submission = wire.submission()
    assert submission.input_ref is not None
    fault(wire.emulator, "delete", "garbage")
    with pytest.raises(ProviderUnreachable):
        wire.provider.delete_input(submission.input_ref)
    wire.provider.create(submission)
    wire.emulator.advance(60)
    assert wire.emulator.bill() != []


def test_a_removal_that_is_not_confirmed_is_looked_for(wire: Wire) -> None:
    """Some hosts answer it with no word of it; that the file is gone says enough."""
    submission = wire.submission()
    assert submission.input_ref is not None
    fault(wire.emulator, "delete", "garbage", body='{"id": "file-1"}', after=True)
    wire.provider.delete_input(submission.input_ref)
    fault(wire.emulator, "delete", "garbage", body='{"id": "file-1"}')
    with pytest.raises(ProviderUnreachable):
        wire.provider.delete_input(wire.submission().input_ref or "")


def test_a_create_without_its_input_creates_nothing(wire: Wire) -> None:
    """The fence: a create that lands after its input was deleted is refused, and costs nothing."""
    submission = wire.submission()
    assert submission.input_ref is not None
    wire.provider.delete_input(submission.input_ref)
    wire.provider.create(submission)
    wire.emulator.advance(60)
    assert wire.emulator.bill() == []


def said(**part: str) -> dict[str, Any]:
    return {"type": "message", "content": [part]}


FILTERED = {"finish_reason": "content_filter", "message": {"content": "x"}}
LINES: list[tuple[str, dict[str, Any], Outcome, bool]] = [
    ("refused in the body", {"response": {"status_code": 400, "body": {"error": {"message": "no"}}}, "error": None}, Outcome.ERRORED, False),
    ("status 0", {"response": {"status_code": 0, "body": {}}, "error": None}, Outcome.ERRORED, True),
    ("no body", {"response": {"status_code": 200}, "error": None}, Outcome.LOST, True),
    ("nothing", {}, Outcome.LOST, True),
    ("nulls", {"response": None, "error": None}, Outcome.LOST, True),
    ("expired", {"response": None, "error": {"code": "batch_expired"}}, Outcome.EXPIRED, True),
    ("cancelled", {"response": None, "error": {"code": "batch_cancelled"}}, Outcome.CANCELLED, True),
    ("error as text", {"response": None, "error": "An error occurred"}, Outcome.ERRORED, True),
    ("no choices", {"response": {"status_code": 200, "body": {"choices": []}}}, Outcome.INVALID, False),
    ("a 200 with its provider's 429", {"response": {"status_code": 200, "body": {"choices": None, "usage": None, "error": {"message": "Provider returned error", "code": 429}}}}, Outcome.ERRORED, True),
    ("a 200 with an error for good", {"response": {"status_code": 200, "body": {"error": {"message": "no", "code": 400}}}}, Outcome.ERRORED, False),
    ("a response that failed", {"response": {"status_code": 200, "body": {"status": "failed", "error": {"code": "server_error", "message": "x"}, "output": []}}}, Outcome.ERRORED, True),
    ("a body of nulls", {"response": {"status_code": 200, "body": {"id": None, "choices": None, "created": 1768361801, "model": None, "usage": None}}}, Outcome.ERRORED, True),
    ("broken off", {"response": {"status_code": 200, "body": {"choices": [{"finish_reason": "insufficient_system_resource", "message": {"content": "Dear cust"}}]}}}, Outcome.INVALID, True),
    ("stopped with an error", {"response": {"status_code": 200, "body": {"choices": [{"finish_reason": "error", "message": {"content": "Dear cust"}}]}}}, Outcome.INVALID, True),
    ("cut off, in Anthropic's word", {"response": {"status_code": 200, "body": {"choices": [{"finish_reason": "max_tokens", "message": {"content": "Dear cust"}}]}}}, Outcome.INVALID, False),
    ("filtered", {"response": {"status_code": 200, "body": {"choices": [FILTERED]}}}, Outcome.REFUSED, False),
]  # fmt: skip


@pytest.mark.parametrize(("line", "outcome", "retryable"), [case[1:] for case in LINES], ids=[case[0] for case in LINES])
def test_a_line_without_an_answer_says_why(wire: Wire, line: dict[str, Any], outcome: Outcome, retryable: bool) -> None:
    """Trap 21: a reader that takes `response` or `error` for granted crashes on the others."""
    (reply,) = wire.read(json.dumps({"id": "x", "custom_id": "a-0", **line}).encode() + b"\n")
    assert (reply.outcome, reply.retryable) == (outcome, retryable)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"status": "completed", "output": [{"type": "reasoning"}, said(type="output_text", text="hi")]}, Outcome.ANSWERED),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [said(text="h")]}, Outcome.INVALID),
        ({"status": "completed", "output": [said(type="refusal", refusal="no")]}, Outcome.REFUSED),
        ({"status": "completed", "output": []}, Outcome.INVALID),
    ],
    ids=["answer", "cut", "refusal", "nothing"],
)  # fmt: skip
def test_an_answer_of_the_responses_endpoint_is_judged_like_a_chat(wire: Wire, body: dict[str, Any], outcome: Outcome) -> None:
    """Trap 28: the same ends, in other places."""
    line = {"custom_id": "a-0", "response": {"status_code": 200, "body": body}}
    (reply,) = wire.read(json.dumps(line).encode() + b"\n")
    assert reply.outcome is outcome


def test_a_batch_of_embeddings_comes_back_as_vectors(wire: Wire) -> None:
    output = output_schema(Embedding(dimensions=8))
    path = wire.file(["hello"], output=output.to_json(), endpoint="/v1/embeddings")
    path.write_bytes(path.read_bytes().replace(b"gpt-5-mini", b"text-embedding-3-small"))
    ref = wire.provider.upload(path, "a" * 10)
    asked = Submission(key="k", path=path, input_ref=ref, model="text-embedding-3-small", endpoint="/v1/embeddings", requests=1)
    batch = wire.provider.create(asked).batch  # type: ignore[union-attr]
    wire.emulator.advance(60)
    (reply,) = wire.replies(wire.look(batch))
    assert len(output.decoder().decode(reply.content)) == 8


def test_an_enum_of_the_label_is_kept_in_the_schema(wire: Wire) -> None:
    (body,) = bodies(wire.file(["hello"], output=output_schema(Label).to_json()))
    assert body["response_format"]["json_schema"]["schema"]["properties"]["category"]["enum"] == ["billing", "bug", "account", "other"]


@pytest.mark.parametrize(
    ("base_url", "named"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://gateway.example/v1", True),  # where the variable for the SDK leads: it passes them on
        ("https://llm.example/v1", False),
        ("https://openai.com.example/v1", False),
        ("https://notopenai.com/v1", False),
    ],
)
def test_the_organisation_is_named_to_openai_and_its_gateway_only(base_url: str, named: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK sends what `OPENAI_ORG_ID` and `OPENAI_PROJECT_ID` hold to any host."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example:443/team")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-canary")
    connection = Connection(account=Account(kind="openai"), base_url=base_url, key=lambda: "sk-1", patience=Patience())
    sent = auth(connection).headers(Outgoing(method="POST", url=base_url, headers={}))
    assert (
        {"openai-organization": "org-canary", "openai-project": "proj-canary"}.items() <= sent.items()
        if named
        else "canary" not in str(sent)
    )


@pytest.mark.parametrize(
    ("kind", "base_url", "sent"),
    [
        ("openai", "https://api.openai.com/v1", True),
        ("openai", "https://gateway.example/v1", True),  # where the variable for the SDK leads
        ("openai", "https://llm.example/v1", False),
        ("groq", "https://api.groq.com/openai/v1", False),
        ("anthropic", "https://api.anthropic.com", True),
        ("anthropic", "https://gateway.example", True),
        ("anthropic", "https://llm.example", False),
    ],
)
def test_headers_that_are_set_for_the_sdk_go_to_its_vendor_and_to_its_gateway_only(
    kind: str, base_url: str, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for vendor in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{vendor}_BASE_URL", "https://gateway.example/v1")
        monkeypatch.setenv(f"{vendor}_CUSTOM_HEADERS", "X-Team: canary\nnot a header\nX-Route : eu")
    connection = Connection(account=Account(kind=kind), base_url=base_url, key=lambda: "sk-1", patience=Patience())
    headers = preset_of(kind, kind).auth(connection).headers(Outgoing(method="POST", url=base_url, headers={}))
    assert {name: value for name, value in headers.items() if name.startswith("x-") and name != "x-api-key"} == (
        {"x-team": "canary", "x-route": "eu"} if sent else {}
    )


@pytest.mark.parametrize(
    ("vendor", "lines", "said"),
    [
        ("openai", "X-Route: eu\nX Team: a", "The name of the header in line 2 of the environment variable OPENAI_CUSTOM_HEADERS"),
        ("openai", "X-Team\u00fc: a", "The name of the header in line 1 of the environment variable OPENAI_CUSTOM_HEADERS"),
        ("openai", "X-Team: caf\u00e9", "The header X-Team in the environment variable OPENAI_CUSTOM_HEADERS"),
        ("anthropic", "X-Team: a\x01b", "The header X-Team in the environment variable ANTHROPIC_CUSTOM_HEADERS"),
    ],
)
def test_a_header_that_cannot_be_sent_is_named_before_anything_is_sent(
    open_wire: Callable[[Peer], Wire], vendor: str, lines: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = open_wire(openai if vendor == "openai" else anthropic)
    monkeypatch.setenv(f"{vendor.upper()}_CUSTOM_HEADERS", lines)
    with pytest.raises(AccessRefused, match=f"{said} has a character that no HTTP header can carry"):
        wire.connect().newest()
    assert wire.emulator.requests() == []


def test_a_header_of_one_call_cannot_be_set_for_all(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official SDK lets a call's own win: another type of content would hide the boundary between the parts of an upload."""
    lines = "Content-Type: application/json\nContent-Length: 3\nTransfer-Encoding: chunked\nAccept-Encoding: br\nRange: bytes=3-"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", lines)
    wire.provider = wire.connect()
    assert len(wire.replies(wire.ended())) == 3


def test_an_organisation_without_its_line_end_is_sent_and_one_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(account=Account(kind="openai"), base_url="https://api.openai.com/v1", key=lambda: "sk-1", patience=Patience())
    asked = Outgoing(method="POST", url=connection.base_url, headers={})
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1\n")
    assert auth(connection).headers(asked)["openai-organization"] == "org-1"
    monkeypatch.setenv("OPENAI_ORG_ID", "org\n1")
    with pytest.raises(AccessRefused, match="The environment variable OPENAI_ORG_ID has a character"):
        auth(connection)


def test_requests_carry_what_the_official_sdks_require_of_theirs() -> None:
    for kind, client in (("openai", openai_sdk.OpenAI(api_key="sk-1")), ("anthropic", anthropic_sdk.Anthropic(api_key="sk-1"))):
        theirs = {name.lower(): value for name, value in {**client.default_headers, **client.auth_headers}.items()}
        connection = Connection(account=Account(kind=kind), base_url=str(client.base_url), key=lambda: "sk-1", patience=Patience())
        ours = preset_of(kind, kind).auth(connection).headers(Outgoing(method="POST", url=str(client.base_url), headers={}))
        required = {"authorization", "x-api-key", "anthropic-version"} & theirs.keys()
        assert required and {name: theirs[name] for name in required} == dict(ours)


@contextmanager
def host_that_says(status: int, body: bytes) -> Iterator[Provider]:
    """An account at a host with one reply to everything."""

    class Host(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers["content-length"] or 0))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = do_GET

    with HTTPServer(("127.0.0.1", 0), Host) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        account = Account(kind="openai", base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key=lambda: "sk-1")
        provider = connect("openai", account)
        yield provider
        provider.close()
        server.shutdown()


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_cancel_without_a_body_in_its_reply_is_done_and_a_page_is_none(status: int) -> None:
    with host_that_says(status, b"") as provider:
        provider.cancel("b")
    with host_that_says(200, b"<html>Sign in</html>") as provider, pytest.raises(ProviderUnreachable, match="unreadable"):
        provider.cancel("b")


def test_a_reply_whose_side_matters_are_of_another_type_is_read_all_the_same(tmp_path: Path) -> None:
    """Hosts of this shape agree only on the ids; an upload that is refused for its size as a text is repeated for ever."""
    (tmp_path / "input.jsonl").write_bytes(b"{}")
    with host_that_says(200, b'{"id": "f", "bytes": "12", "deleted": "true", "data": [], "has_more": "false"}') as provider:
        assert provider.upload(tmp_path / "input.jsonl", "k") == "f"
        assert provider.newest() is None
        with pytest.raises(ProviderUnreachable, match="the file is still there"):  # which the host says itself
            provider.delete_input("f")


def test_a_batch_at_another_host_names_no_organisation(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict[str, str]] = []

    class Host(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"object": "list", "data": [], "has_more": false}')

    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    with HTTPServer(("127.0.0.1", 0), Host) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        provider = connect("openai", Account(kind="openai", base_url=f"http://127.0.0.1:{server.server_port}/v1"))
        assert provider.newest() is None
        provider.close()
        server.shutdown()
    assert heard and all(headers["authorization"] == "Bearer sk-1" and "canary" not in str(headers) for headers in heard)
