"""Every fault family, as a client meets it."""

import json
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from keld.emulator import UnknownFault
from tests.emulator.conftest import Desk, chat_lines, message_params, read


def output_lines(desk: Desk) -> list[bytes]:
    batch = desk.openai.batches.retrieve(desk.chat_batch(10))
    return desk.content(batch.output_file_id).split(b"\n")[:-1]


# --- any call ---------------------------------------------------------------------------------------------------------


def test_status_fault_has_the_official_body_and_retry_after(desk: Desk) -> None:
    desk.fault("realtime", "status", status=429, retry_after=7)
    with pytest.raises(openai.RateLimitError) as raised:
        desk.openai.responses.create(model="gpt-5", input="x")
    assert (raised.value.code, raised.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "7")
    assert desk.emulator.bill() == []


def test_dropped_answer_leaves_the_batch_behind(desk: Desk) -> None:
    desk.fault("create", "drop_after")
    with pytest.raises(openai.APIConnectionError):
        desk.chat_batch(2)
    assert len(desk.emulator.batches()) == 1
    assert desk.emulator.requests()[-1].status is None


def test_call_dropped_before_leaves_nothing_behind(desk: Desk) -> None:
    desk.fault("create", "drop_before")
    with pytest.raises(openai.APIConnectionError):
        desk.chat_batch(2)
    assert desk.emulator.batches() == []


def test_error_after_the_work_was_done(desk: Desk) -> None:
    desk.fault("create", "status", status=502, after=True)
    with pytest.raises(openai.InternalServerError):
        desk.chat_batch(2)
    assert len(desk.emulator.batches()) == 1


def test_sdk_retries_are_seen_and_make_a_second_batch(desk: Desk) -> None:
    desk.fault("create", "status", status=500, after=True, retry_after=0)
    file_id = desk.upload(chat_lines(1))
    desk.openai.with_options(max_retries=2).batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
    assert len(desk.emulator.batches()) == 2
    assert [call.retry_count for call in desk.emulator.requests() if call.path == "/v1/batches"] == [0, 1]


def test_redirect_leads_to_another_host(desk: Desk) -> None:
    desk.fault("list", "redirect", location="http://127.0.0.1:1/elsewhere")
    with pytest.raises(openai.APIConnectionError):
        desk.openai.batches.list()


def test_garbage_is_no_batch(desk: Desk) -> None:
    desk.fault("get", "garbage")
    got: Any = desk.openai.batches.retrieve(desk.chat_batch(1))
    assert not hasattr(got, "status")


def test_delay_outlasts_a_timeout(desk: Desk) -> None:
    desk.fault("list", "delay", delay_s=0.3)
    with pytest.raises(openai.APITimeoutError):
        desk.openai.with_options(timeout=0.05).batches.list()


def test_rule_fires_after_skip_and_only_so_many_times(desk: Desk) -> None:
    desk.fault("list", "status", status=503, skip=1, times=2)
    statuses = []
    for _ in range(4):
        try:
            desk.openai.batches.list()
            statuses.append(200)
        except openai.APIStatusError as error:
            statuses.append(error.status_code)
    assert statuses == [200, 503, 503, 200]
    assert [rule["hits"] for rule in desk.emulator.fault_rules()] == [2]
    assert [firing.do for firing in desk.emulator.fault_log()] == ["status", "status"]


def test_match_chooses_the_provider(desk: Desk) -> None:
    desk.fault("any", "status", times=None, match={"provider": "anthropic"})
    assert desk.openai.batches.list().data == []
    with pytest.raises(anthropic.InternalServerError):
        desk.anthropic.messages.batches.list()


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ({"at": "lunch", "do": "status"}, "upload"),
        ({"at": "list", "do": "explode"}, "drop_after"),
        ({"at": "list", "do": "delay", "delay": 1}, "delay_s"),
        ({"at": "list", "do": "delay", "match": {"tenant": 1}}, "provider"),
    ],
    ids=["point", "fault", "argument", "match"],
)
def test_unknown_names_are_refused_naming_the_known(desk: Desk, rule: dict[str, Any], named: str) -> None:
    with pytest.raises(UnknownFault, match=named):
        desk.emulator.faults({"rules": [rule]})


# --- create -----------------------------------------------------------------------------------------------------------


def test_late_landing_appears_later(desk: Desk) -> None:
    desk.fault("create", "late_landing", after_s=60, status=504)
    with pytest.raises(openai.InternalServerError):
        desk.chat_batch(2)
    assert desk.openai.batches.list().data == [] and desk.emulator.bill() == []
    desk.emulator.advance(60)
    assert [one.status for one in desk.openai.batches.list().data] == ["completed"]
    assert len(desk.emulator.bill()) == 2


def test_deleted_input_keeps_a_late_create_from_landing(desk: Desk) -> None:
    desk.fault("create", "late_landing", after_s=60)
    file_id = desk.upload(chat_lines(2))
    with pytest.raises(openai.APIConnectionError):
        desk.openai.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
    desk.openai.files.delete(file_id)
    desk.emulator.advance(3600)
    assert desk.openai.batches.list().data == [] and desk.emulator.bill() == []


def test_message_batch_lands_late_too(desk: Desk) -> None:
    desk.fault("create", "late_landing", after_s=60)
    with pytest.raises(anthropic.APIConnectionError):
        desk.message_batch(3)
    assert desk.anthropic.messages.batches.list().data == []
    desk.emulator.advance(60)
    assert len(desk.anthropic.messages.batches.list().data) == 1


def test_hidden_batch_is_not_found_for_a_while(desk: Desk) -> None:
    desk.fault("create", "hidden", for_s=10)
    batch_id = desk.chat_batch(1)
    with pytest.raises(openai.NotFoundError):
        desk.openai.batches.retrieve(batch_id)
    desk.emulator.advance(10)
    assert desk.openai.batches.retrieve(batch_id).id == batch_id


def test_list_lags(desk: Desk, open_desk: Callable[..., Desk]) -> None:
    desk.fault("create", "list_lag", for_s=10)
    for lagging in (desk, open_desk(list_lag_s=10)):
        lagging.chat_batch(1)
        assert lagging.openai.batches.list().data == []
        lagging.emulator.advance(10)
        assert len(lagging.openai.batches.list().data) == 1


# --- life -------------------------------------------------------------------------------------------------------------


def test_late_validation_failure_with_a_code(desk: Desk) -> None:
    desk.fault("life", "fail", code="odd_code", message="Odd.", line=3)
    batch = desk.openai.batches.retrieve(desk.chat_batch(2))
    assert batch.status == "failed" and batch.errors and batch.errors.data
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == ("odd_code", 3)


def test_token_limit_as_planned(desk: Desk) -> None:
    desk.fault("life", "token_limit")
    batch = desk.openai.batches.retrieve(desk.chat_batch(2))
    assert batch.errors and batch.errors.data and batch.errors.data[0].code == "token_limit_exceeded"


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing"])
def test_stuck_batch_never_ends(desk: Desk, status: str) -> None:
    desk.fault("life", "stuck", status=status)
    batch_id = desk.chat_batch(4)
    desk.emulator.advance(10 * 86_400)
    assert desk.openai.batches.retrieve(batch_id).status == status


def test_planned_expiry_keeps_the_wished_fraction(desk: Desk) -> None:
    desk.fault("life", "expire", done=0.3, after_s=3600)
    batch_id = desk.chat_batch(10)
    assert desk.openai.batches.retrieve(batch_id).status == "in_progress"
    desk.emulator.advance(3600)
    assert desk.openai.batches.retrieve(batch_id).status == "expired"
    assert (len(desk.output(batch_id)), len(desk.errors(batch_id)), len(desk.emulator.bill())) == (3, 7, 3)


def test_odd_status_is_told(desk: Desk) -> None:
    desk.fault("life", "status", value="thinking_about_it", instead_of="completed")
    assert desk.openai.batches.retrieve(desk.chat_batch(1)).status == "thinking_about_it"  # type: ignore[comparison-overlap]


def test_counts_lie(desk: Desk) -> None:
    desk.fault("life", "counts", total=None, completed=99)
    counts = desk.openai.batches.retrieve(desk.chat_batch(2)).request_counts
    assert counts and counts.model_dump() == {"total": None, "completed": 99, "failed": 0}


# --- rows -------------------------------------------------------------------------------------------------------------


def test_completed_with_every_row_failed_has_no_output(desk: Desk) -> None:
    desk.fault("rows", "error", status=500)
    batch = desk.openai.batches.retrieve(desk.chat_batch(9))
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert batch.request_counts and (batch.request_counts.completed, batch.request_counts.failed) == (0, 9)
    assert desk.emulator.bill() == []


def test_fraction_of_rows_is_exact(desk: Desk) -> None:
    desk.fault("rows", "error", status=429, fraction=0.3)
    batch_id = desk.chat_batch(10)
    assert [one["response"]["status_code"] for one in desk.errors(batch_id)] == [429] * 3
    assert len(desk.emulator.bill()) == 7


def test_row_is_chosen_by_its_custom_id(desk: Desk) -> None:
    desk.fault("rows", "error", status=400, match={"custom_id": "-4"})
    assert [one["custom_id"] for one in desk.errors(desk.chat_batch(10))] == ["r-4"]


def test_model_is_missing_in_every_row(desk: Desk) -> None:
    desk.fault("rows", "model_not_found")
    codes = {one["response"]["body"]["error"]["code"] for one in desk.errors(desk.chat_batch(3))}
    assert codes == {"model_not_found"}


def test_refused_cut_and_invalid_answers_are_paid(desk: Desk) -> None:
    for fate in ("refusal", "length", "invalid"):
        desk.fault("rows", fate)
        (choice,) = desk.output(desk.chat_batch(1))[0]["response"]["body"]["choices"]
        found = {
            "refusal": choice["message"]["refusal"] is not None,
            "length": choice["finish_reason"] == "length",
            "invalid": "keld_emulator" in (choice["message"]["content"] or ""),
        }
        assert found == {name: name == fate for name in found}
    assert len(desk.emulator.bill()) == 3


def test_message_rows_fail_in_anthropics_words(desk: Desk) -> None:
    desk.fault("rows", "error", status=529)
    batch_id = desk.message_batch(2)
    kinds = [one.result.error.error.type for one in desk.anthropic.messages.batches.results(batch_id)]  # type: ignore[union-attr]
    assert kinds == ["overloaded_error"] * 2


def test_message_is_refused(desk: Desk) -> None:
    desk.fault("rows", "refusal")
    assert desk.anthropic.messages.create(**message_params(0)).stop_reason == "refusal"


# --- results ----------------------------------------------------------------------------------------------------------


def test_completed_without_output_id(desk: Desk) -> None:
    desk.fault("results", "no_output_id")
    batch = desk.openai.batches.retrieve(desk.chat_batch(2))
    assert (batch.status, batch.output_file_id) == ("completed", None) and len(desk.emulator.bill()) == 2


def test_error_file_id_is_an_empty_string(desk: Desk) -> None:
    desk.fault("results", "empty_error_id")
    assert desk.openai.batches.retrieve(desk.chat_batch(2)).error_file_id == ""


def test_error_file_has_no_bytes(desk: Desk) -> None:
    desk.fault("results", "zero_byte_error")
    assert desk.content(desk.openai.batches.retrieve(desk.chat_batch(2)).error_file_id) == b""


@pytest.mark.parametrize(("do", "told"), [("empty_output_id", ""), ("zero_byte_output", b"")])
def test_output_is_named_by_an_empty_string_or_has_no_bytes(desk: Desk, do: str, told: str | bytes) -> None:
    desk.fault("results", do)
    batch = desk.openai.batches.retrieve(desk.chat_batch(2))
    assert (batch.output_file_id if told == "" else desk.content(batch.output_file_id)) == told
    assert len(desk.emulator.bill()) == 2


def test_results_are_named_only_some_time_after_the_end(desk: Desk) -> None:
    desk.fault("results", "late_ids", for_s=60, times=2)
    chat, message = desk.chat_batch(2), desk.message_batch(2)
    assert desk.openai.batches.retrieve(chat).status == "completed"
    assert (desk.openai.batches.retrieve(chat).output_file_id, desk.anthropic.messages.batches.retrieve(message).results_url) == (
        None,
        None,
    )
    desk.emulator.advance(60)
    assert desk.output(chat) and desk.anthropic.messages.batches.retrieve(message).results_url


def test_results_url_points_elsewhere(desk: Desk) -> None:
    desk.fault("results", "results_url", url="http://127.0.0.1:1/results")
    batch = desk.anthropic.messages.batches.retrieve(desk.message_batch(1))
    assert batch.results_url == "http://127.0.0.1:1/results"


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "arguments", "found"),
    [
        ("missing", {}, lambda lines: len(lines) == 9),
        ("duplicate", {}, lambda lines: len(lines) == 11 and lines[0] == lines[1]),
        ("foreign", {}, lambda lines: b"keld-emulator-foreign" in lines[1]),
        ("cut", {}, lambda lines: lines[0].startswith(b'{"id"') and not lines[0].endswith(b"}")),
        ("garbage", {}, lambda lines: lines[0].startswith(b"\x00\xff")),
        ("blank", {}, lambda lines: lines[1] == b""),
        ("surrogate", {"inside": "answer"}, lambda lines: b'"content":"\\ud800' in lines[0]),
        ("u2028", {}, lambda lines: "\u2028".encode() in lines[0] and json.loads(lines[0])),
        ("huge", {"size_mb": 2}, lambda lines: len(lines[0]) > 2_000_000),
        ("nan", {}, lambda lines: b":NaN," in lines[0]),
        ("deep", {"levels": 100_000}, lambda lines: b"[" * 100_000 in lines[0]),
        ("duplicate_key", {}, lambda lines: lines[0].count(b'"custom_id"') == 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_line(desk: Desk, do: str, arguments: dict[str, Any], found: Callable[[list[bytes]], bool]) -> None:
    desk.fault("lines", do, count=1, **arguments)
    assert found(output_lines(desk))
    assert len(desk.emulator.bill()) == 10


def test_file_with_bom_and_crlf(desk: Desk) -> None:
    desk.fault("lines", "bom")
    desk.fault("lines", "crlf")
    lines = output_lines(desk)
    assert lines[0].startswith(b"\xef\xbb\xbf") and all(one.endswith(b"\r") for one in lines)


def test_lines_come_in_reverse(desk: Desk) -> None:
    desk.fault("lines", "reorder", order="reverse")
    assert [json.loads(one)["custom_id"] for one in output_lines(desk)] == [f"r-{n}" for n in range(9, -1, -1)]


# --- download ---------------------------------------------------------------------------------------------------------


def test_download_is_cut(desk: Desk) -> None:
    desk.fault("download", "truncate", bytes=500)
    with pytest.raises(openai.APIConnectionError):
        output_lines(desk)


def test_download_ends_cleanly_but_short(desk: Desk) -> None:
    desk.fault("download", "truncate", bytes=500, clean=True)
    batch = desk.openai.batches.retrieve(desk.chat_batch(10))
    assert len(desk.content(batch.output_file_id)) == 500
    assert len(read(desk.content(batch.output_file_id))) == 10


def test_gzip_bomb_swells(desk: Desk) -> None:
    desk.fault("download", "gzip_bomb", size_mb=3)
    assert desk.content(desk.upload(b"{}")) == bytes(3_000_000)


def test_gzip_bomb_stands_behind_the_files_own_lines(desk: Desk) -> None:
    desk.fault("download", "gzip_bomb", size_mb=1, after_lines=True)
    assert desk.content(desk.upload(b"{}")) == b"{}" + bytes(1_000_000)


def test_the_range_of_a_call_is_in_the_log(desk: Desk) -> None:
    name = desk.upload(b"{}")
    desk.openai.files.content(name, extra_headers={"Range": "bytes=1-"})
    assert (desk.emulator.requests()[-1].status, desk.emulator.requests()[-1].range) == (206, "bytes=1-")


def test_slow_download_arrives_whole(desk: Desk) -> None:
    desk.fault("download", "slow", bytes_per_s=1_000_000)
    assert len(output_lines(desk)) == 10


def test_results_download_is_cut_for_messages(desk: Desk) -> None:
    desk.fault("download", "truncate", bytes=100)
    with pytest.raises(Exception, match=r"incomplete|peer closed"):
        list(desk.anthropic.messages.batches.results(desk.message_batch(5)))
