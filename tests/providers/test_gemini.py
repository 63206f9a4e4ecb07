"""What only Gemini does: uploads in pieces, two versions, a list without an order, errors of Google's shape; over the wire of the emulator."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keld import Account
from keld.emulator import Emulator
from keld.errors import AccessRefused, ProviderUnreachable
from keld.providers.base import BatchState, QueueFull, Refused
from keld.providers.fault import Meaning, fault_of_reply, meaning
from keld.providers.presets.gemini import PRESET
from keld.providers.provider import connect
from keld.providers.transports import gemini as transport
from keld.providers.transports.gemini import error_in, versioned
from tests.providers.conftest import Wire
from tests.support.ticket_job import fault, gemini

PIECE = 1 << 16


@pytest.fixture
def wire(open_wire: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch) -> Wire:
    """With small pieces, so that a small file has several, and without pauses."""
    monkeypatch.setattr(transport, "_PIECE", PIECE)
    monkeypatch.setattr(transport, "_PAUSES_S", (0, 0))
    monkeypatch.setattr("keld.emulator.services.gemini_files.PIECE_BYTES", PIECE)
    return open_wire(gemini)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of three pieces and a bit."""
    path = tmp_path / "large.jsonl"
    path.write_bytes(b'{"key":"a-00000000","request":{"contents":[{"parts":[{"text":"%b"}]}]}}\n' % (b"x" * (3 * PIECE)))
    return path


def uploaded(wire: Wire, ref: str | None) -> bytes:
    """What the service has of an upload, by its name."""
    store = wire.emulator._live.store
    file = store.file(f"file-{(ref or '').removeprefix('files/')}", "gemini")
    assert file is not None
    return file.path.read_bytes()


def uploads(wire: Wire) -> list[int | None]:
    return [call.status for call in wire.emulator.requests() if "/upload/" in call.path]


# --- uploads ------------------------------------------------------------------------------------------------------------


def test_a_file_is_uploaded_in_pieces(wire: Wire, large: Path) -> None:
    ref = wire.provider.upload(large, "a" * 10)
    assert uploaded(wire, ref) == large.read_bytes()
    assert uploads(wire) == [200] * 5


@pytest.mark.parametrize(
    ("do", "how", "seen"),
    [
        ("status", {"status": 503}, [503]),
        ("status", {"status": 429}, [429]),
        ("drop_before", {}, [None]),
        ("drop_after", {}, [None]),  # it arrived: sent again it would be refused, so the server is asked how much it has
        ("status", {"status": 502, "after": True}, [502]),
    ],
    ids=str,
)
def test_a_piece_that_failed_is_sent_again_at_its_offset_if_it_did_not_arrive(
    wire: Wire, large: Path, do: str, how: dict[str, Any], seen: list[int | None]
) -> None:
    fault(wire.emulator, "upload", do, skip=2, **how)
    ref = wire.provider.upload(large, "a" * 10)
    assert uploaded(wire, ref) == large.read_bytes()
    assert uploads(wire)[:3] == [200, 200, *seen]


def test_an_upload_whose_last_reply_was_lost_is_begun_again_by_the_runner(wire: Wire, large: Path) -> None:
    """An upload costs nothing; without the reply its name is not known."""
    fault(wire.emulator, "upload", "drop_after", skip=4)
    with pytest.raises(ProviderUnreachable):
        wire.provider.upload(large, "a" * 10)
    assert uploaded(wire, wire.provider.upload(large, "a" * 10)) == large.read_bytes()


def test_a_piece_that_the_server_refuses_ends_the_upload(wire: Wire, large: Path) -> None:
    fault(wire.emulator, "upload", "status", status=403, skip=2)
    with pytest.raises(AccessRefused):
        wire.provider.upload(large, "a" * 10)
    assert uploads(wire) == [200, 200, 403]


def test_the_key_and_the_pieces_go_to_the_accounts_own_host_only(wire: Wire, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google names its own host in the upload's address, also behind a gateway."""
    asked: list[str] = []
    send = httpx2.Client.send

    def named_elsewhere(self: httpx2.Client, request: httpx2.Request, **how: Any) -> httpx2.Response:
        asked.append(request.url.host)
        response = send(self, request, **how)
        if url := response.headers.get("x-goog-upload-url"):
            response.headers["x-goog-upload-url"] = str(httpx2.URL(url).copy_with(scheme="https", host="other-host.invalid", port=None))
        return response

    monkeypatch.setattr(httpx2.Client, "send", named_elsewhere)
    ref = wire.provider.upload(large, "a" * 10)
    assert uploaded(wire, ref) == large.read_bytes()
    assert set(asked) == {"127.0.0.1"}


def test_an_input_that_is_gone_already_is_removed(wire: Wire, large: Path) -> None:
    """The service says 403 of it: "... or it may not exist"."""
    ref = wire.provider.upload(large, "a" * 10)
    assert ref is not None
    wire.emulator.advance(timedelta(hours=49))
    wire.provider.delete_input(ref)


def test_a_create_whose_input_is_gone_says_that_it_is_missing_and_is_no_fault_of_the_key(wire: Wire) -> None:
    submission = wire.submission()
    wire.emulator.advance(timedelta(hours=49))
    outcome = wire.provider.create(submission)
    assert isinstance(outcome, Refused)
    assert (outcome.status, outcome.code, outcome.permanent, outcome.access) == (403, "FILE_NOT_FOUND", False, False)


# --- addresses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (None, "https://generativelanguage.googleapis.com/v1beta"),
        ("https://generativelanguage.googleapis.com", "https://generativelanguage.googleapis.com/v1beta"),
        ("https://generativelanguage.googleapis.com/v1/", "https://generativelanguage.googleapis.com/v1"),
        ("https://gateway.example/google/v1alpha", "https://gateway.example/google/v1alpha"),
        ("https://gateway.example/google", "https://gateway.example/google/v1beta"),
    ],
)
def test_the_version_of_the_api_is_that_of_the_address_or_the_documented_one(given: str | None, asked: str) -> None:
    assert versioned(given) == asked


def test_the_other_version_has_the_same_calls(open_wire: Callable[..., Wire], emulator: Emulator) -> None:
    wire = open_wire(gemini)
    wire.provider = connect("v1", Account(kind="gemini", base_url=f"{emulator.url_of('gemini')}/v1"))
    assert len(wire.replies(wire.ended())) == 3
    paths = [call.path for call in emulator.requests()]
    assert all("/v1/" in path for path in paths)
    assert any(path.startswith("/gemini/download/v1/files/") for path in paths)


# --- batches ------------------------------------------------------------------------------------------------------------


def test_why_a_batch_failed_is_read_though_the_official_sdk_drops_it(wire: Wire) -> None:
    fault(wire.emulator, "life", "fail", code="INVALID_ARGUMENT", message="Line 2 is no request.")
    ended = wire.ended()
    assert (ended.state, ended.native) == (BatchState.FAILED, "BATCH_STATE_FAILED")
    assert ended.errors == (("INVALID_ARGUMENT", "Line 2 is no request."),)
    assert ended.queue_full is None


def test_a_batch_that_failed_for_want_of_quota_may_be_sent_again(wire: Wire) -> None:
    fault(wire.emulator, "life", "fail", code="RESOURCE_EXHAUSTED", message="You exceeded your current quota.")
    assert wire.ended().queue_full == "RESOURCE_EXHAUSTED"


def test_counts_are_texts_and_a_zero_that_is_left_out_is_a_zero(wire: Wire) -> None:
    fault(wire.emulator, "rows", "error", status=500)
    ended = wire.ended()
    assert (ended.requests, ended.done, ended.succeeded, ended.key) == (3, 3, 0, "aaaaaaaaaa-1")


def test_a_zero_of_a_batch_that_runs_is_not_known_to_be_one(wire: Wire) -> None:
    """Taken for a zero, the batch would be cancelled for a deadline, and its answers, which are paid, would be lost."""
    fault(wire.emulator, "life", "stuck", done=0.0)
    batch = wire.create()
    assert (batch.native, batch.done) == ("BATCH_STATE_PENDING", 0)
    running = wire.look(batch)
    assert (running.native, running.requests, running.done) == ("BATCH_STATE_RUNNING", 3, None)


@pytest.mark.parametrize(
    ("stats", "succeeded"),
    [
        ({"requestCount": "3"}, None),
        ({"requestCount": "3", "successfulRequestCount": "1"}, None),
        ({"requestCount": "3", "successfulRequestCount": "1", "pendingRequestCount": "2"}, 1),
        ({"requestCount": "3", "pendingRequestCount": "3"}, 0),
    ],
    ids=str,
)
def test_counts_of_a_cancelled_batch_that_do_not_add_up_are_not_known(wire: Wire, stats: dict[str, str], succeeded: int | None) -> None:
    """It gives no answers back; a count that is too low would hide rows that are paid, and nothing would stay reserved for them."""
    batch = wire.create()
    metadata = {"state": "BATCH_STATE_CANCELLED", "createTime": "2026-11-29T10:00:00Z", "displayName": batch.key, "batchStats": stats}
    body = json.dumps({"name": f"batches/{batch.id}", "metadata": metadata, "done": True})
    fault(wire.emulator, "get", "garbage", body=body, times=1)
    found = wire.look(batch)
    assert (found.state, found.succeeded) == (BatchState.CANCELLED, succeeded)


@pytest.mark.parametrize(
    "body", ['{"operations": {}}', '{"error": {"code": 1}}', '{"status": "ok"}', '{"operations": [{"name": "files/a"}]}', "[]"]
)
def test_a_reply_that_is_no_list_is_never_taken_for_an_empty_one(wire: Wire, body: str) -> None:
    """A batch that is missing in a list is sent again, and paid again."""
    fault(wire.emulator, "list", "garbage", body=body, times=None)
    with pytest.raises(ProviderUnreachable):
        list(wire.provider.batches(wire.emulator.now() - timedelta(days=1)))


def test_a_cancel_that_is_refused_because_of_the_key_is_no_success(wire: Wire) -> None:
    """Both have the status of a bad request."""
    batch = wire.create()
    fault(wire.emulator, "cancel", "status", status=400, code="FAILED_PRECONDITION")
    with pytest.raises(AccessRefused):
        wire.provider.cancel(batch.id)


# --- errors -------------------------------------------------------------------------------------------------------------


def status_reply(code: int, status: str, message: str = "no", **detail: Any) -> Any:
    body = {"error": {"code": code, "status": status, "message": message, "details": [detail] if detail else []}}
    return fault_of_reply(code, {}, httpx2.Response(code, json=body).content, carried_prompts=False, error_in=error_in)


@pytest.mark.parametrize(
    ("reply", "means"),
    [
        (status_reply(400, "INVALID_ARGUMENT"), Meaning.REFUSED),
        (status_reply(400, "INVALID_ARGUMENT", "API key not valid.", reason="API_KEY_INVALID"), Meaning.ACCESS),
        (status_reply(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), Meaning.ACCESS),
        (status_reply(403, "PERMISSION_DENIED", "Your project is denied.", reason="SERVICE_DISABLED"), Meaning.ACCESS),
        (status_reply(403, "PERMISSION_DENIED", "You do not have permission to access the File a or it may not exist."), Meaning.MISSING),
        (status_reply(402, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."), Meaning.ACCESS),
        (status_reply(404, "NOT_FOUND"), Meaning.MISSING),
        (status_reply(429, "RESOURCE_EXHAUSTED"), Meaning.QUEUE_FULL),
        (status_reply(500, "INTERNAL"), Meaning.UNKNOWN),
        (status_reply(503, "UNAVAILABLE"), Meaning.NOT_DONE),
        (fault_of_reply(503, {}, b"<html>", carried_prompts=False, error_in=error_in), Meaning.UNKNOWN),
    ],
    ids=str,
)
def test_the_word_of_an_error_says_what_it_means(reply: Any, means: Meaning) -> None:
    assert meaning(reply, PRESET.codes) is means


def test_the_time_to_wait_is_read_from_the_body(wire: Wire) -> None:
    """Google says it in a RetryInfo, and not in a header."""
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}
    assert status_reply(429, "RESOURCE_EXHAUSTED", **info).retry_after_s == 37
    assert status_reply(429, "RESOURCE_EXHAUSTED", retryDelay="soon").retry_after_s is None
    submission = wire.submission()
    fault(
        wire.emulator,
        "create",
        "garbage",
        status=429,
        body='{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m", "details": [{"retryDelay": "5.5s"}]}}',
    )
    assert wire.provider.create(submission) == QueueFull(5.5, own=True)
