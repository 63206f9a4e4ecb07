"""The suite that every provider file passes: one create is one call, every answer is read, nothing is believed too early.

The traps are those of docs/notes/providers.md.
"""

import json
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from keld.cache import Ttl
from keld.emulator import Emulator
from keld.emulator.services import bedrock_input, vertex_jobs
from keld.errors import AccessRefused, InvalidJob, ProviderUnreachable
from keld.outcome import Outcome
from keld.patience import Patience
from keld.providers import page
from keld.providers.base import BatchState, Created, OutcomeUnknown, QueueFull, Refused
from keld.request import Question
from keld.schema import output_schema
from tests.providers.conftest import Wire
from tests.support.ticket_job import (
    Label,
    Peer,
    anthropic,
    azure,
    bedrock,
    creates,
    fault,
    gemini,
    groq,
    mistral,
    openai,
    vertex,
    vertex_claude,
)

pytestmark = pytest.mark.by_kinds

OTHERHOST = Peer(name="otherhost", model="gpt-5-mini", creates="/otherhost/v1/jobs")
PACKAGE = Path(__file__).parent / "otherhost"
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _otherhost_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python looks for packages, and so for their entry points."""
    monkeypatch.syspath_prepend(PACKAGE)


@pytest.fixture(autouse=True)
def _small_batches_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches of this suite have some rows, and there are several; that Bedrock takes no fewer than 100, and Vertex four of Claude, is tested elsewhere."""
    monkeypatch.setattr(bedrock_input, "LEAST_RECORDS", 1)
    monkeypatch.setattr(vertex_jobs, "CLAUDE_AT_ONCE", 100)


PEERS = [openai, anthropic, gemini, mistral, azure, groq, bedrock, vertex, vertex_claude, OTHERHOST]


@pytest.fixture(params=PEERS, ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> Peer:
    """A provider of each transport: those that are built in, and one that another package brings."""
    return request.param


UNANSWERED: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 500}),
    ("status", {"status": 502}),
    ("status", {"status": 503}),
    ("status", {"status": 504, "after": True}),
    ("status", {"status": 408}),
    ("status", {"status": 409}),
    ("drop_before", {}),
    ("drop_after", {}),
    ("garbage", {}),
    ("garbage", {"body": "{}"}),
    ("garbage", {"body": ""}),
]


# --- the one dangerous call -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("do", "how"), UNANSWERED, ids=str)
def test_a_create_without_an_answer_is_of_unknown_outcome_and_sent_once(wire: Wire, do: str, how: dict[str, Any]) -> None:
    """Trap 1: the SDKs re-send an unanswered create on their own, and each of them is billed."""
    submission = wire.submission()
    fault(wire.emulator, "create", do, times=None, **how)
    assert isinstance(wire.provider.create(submission), OutcomeUnknown)
    assert [call.retry_count or 0 for call in creates(wire.emulator, wire.peer)] == [0]


def test_a_create_that_times_out_is_of_unknown_outcome_and_sent_once(wire: Wire) -> None:
    """Trap 1: a time-out says nothing about what the provider did; here it did the work."""
    submission = wire.submission()
    fault(wire.emulator, "create", "delay", delay_s=0.5, times=None)
    assert isinstance(wire.connect(Patience(reply_s=0.1)).create(submission), OutcomeUnknown)
    assert len(creates(wire.emulator, wire.peer)) <= 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_definite_no_to_the_file_is_refused_for_good(wire: Wire, status: int) -> None:
    """The same file would be refused again; nothing was created, so nothing has to be looked for."""
    submission = wire.submission()
    fault(wire.emulator, "create", "status", status=status)
    outcome = wire.provider.create(submission)
    assert isinstance(outcome, Refused)
    assert (outcome.status, outcome.permanent) == (status, True)
    assert len(creates(wire.emulator, wire.peer)) == 1


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_no_that_a_person_can_mend_is_not_for_good(wire: Wire, status: int) -> None:
    """A wrong key says nothing about the rows."""
    submission = wire.submission()
    fault(wire.emulator, "create", "status", status=status)
    outcome = wire.provider.create(submission)
    assert isinstance(outcome, Refused)
    assert (outcome.status, outcome.permanent) == (status, False)


def test_a_rate_limit_on_create_is_a_full_queue_with_the_time_to_wait(wire: Wire) -> None:
    """Trap 6: back-pressure is no fault of the file."""
    submission = wire.submission()
    fault(wire.emulator, "create", "status", status=429, retry_after=17)
    outcome = wire.provider.create(submission)
    assert isinstance(outcome, QueueFull)
    assert outcome.retry_after_s == 17
    assert [call.retry_count or 0 for call in creates(wire.emulator, wire.peer)] == [0]


@pytest.mark.parametrize("code", ["overloaded_error", "capacity_exceeded"])
def test_an_overload_with_the_status_of_a_rate_limit_is_a_full_queue(wire: Wire, code: str) -> None:
    """Taken for a lost reply, the create would be looked for, and sent again half an hour later."""
    submission = wire.submission()
    fault(wire.emulator, "create", "status", status=429, code=code, retry_after=17)
    outcome = wire.provider.create(submission)
    assert isinstance(outcome, QueueFull)
    assert outcome.retry_after_s == 17


def test_a_host_that_cannot_be_reached_has_created_nothing(wire: Wire, unused_port: int) -> None:
    """No byte of the request went out, so it may be sent again without a look."""
    submission = wire.submission()
    elsewhere = wire.connect(base_url=f"http://127.0.0.1:{unused_port}/v1")
    outcome = elsewhere.create(submission)
    assert isinstance(outcome, Refused)
    assert (outcome.status, outcome.permanent) == (None, False)


def test_a_redirect_of_a_create_is_not_followed(wire: Wire) -> None:
    """The key would go to whoever is named there."""
    submission = wire.submission()
    with Emulator(frozen=True) as other:
        fault(wire.emulator, "create", "redirect", location=other.url + wire.peer.creates)
        assert isinstance(wire.provider.create(submission), Refused)
        assert other.requests() == []


@pytest.mark.parametrize("at", ["get", "list"])
def test_a_redirect_of_a_look_is_not_followed(wire: Wire, at: str) -> None:
    """As for a create: the key travels with every call."""
    batch = wire.ended()
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: wire.provider.get(batch.id),
        "list": lambda: list(wire.provider.batches(batch.created_at)),
    }
    with Emulator(frozen=True) as other:
        fault(wire.emulator, at, "redirect", location=other.url, times=None)
        with pytest.raises(Exception, match="307"):
            calls[at]()
        assert other.requests() == []


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_custom_ids_are_ours_short_and_unique(wire: Wire) -> None:
    """Trap 11: ids made of users' text break the charset, the length, or another row."""
    ids = re.findall(rb'"(?:custom_id|keld|label|key|recordId)":"([^"]*)"', wire.file(["one", "two", "one"]).read_bytes())
    assert len(set(ids)) == 3
    assert all(re.fullmatch(rb"[A-Za-z0-9_-]{1,64}", one) for one in ids)


def test_a_request_names_its_model_and_does_not_stream(wire: Wire) -> None:
    """Trap 10: OpenAI refuses a line without a model, both refuse `stream`; where the create names the model, a line has none."""
    text = wire.file(["one"]).read_text()
    assert (f'"model":"{wire.peer.model}"' in text) == wire.peer.model_in_line
    assert '"stream"' not in text


@pytest.mark.parametrize("ttl", [None, *Ttl])
def test_a_line_adds_no_more_than_is_told(wire: Wire, ttl: Ttl | None) -> None:
    """Shards are cut by it before a byte is written, with the mark or without."""
    encoder = wire.provider.encoder(Question(system="Be brief.", output=output_schema(Label).to_json()), wire.peer.model, "a" * 10, ttl)
    for prompt in (b'"one"', b'[{"role":"user","content":"one"}]'):
        for position in (0, 99_999_999, 10**14):
            assert len(encoder.line(position, prompt)) <= encoder.overhead_bytes + len(prompt), (prompt, position)


@pytest.mark.parametrize("ttl", [None, *Ttl])
def test_a_file_is_its_lines_one_by_one(wire: Wire, ttl: Ttl | None) -> None:
    """The constant bytes of a line are found once for a file, and must be those of every line: of a number of more digits, of a conversation."""
    shared = Question(system='Be "brief": {}%', output=output_schema(Label).to_json())
    encoder = wire.provider.encoder(shared, wire.peer.model, "a" * 10, ttl)
    talk = b'[{"role":"system","content":"In French."},{"role":"user","content":"one"}]'
    blocks = [([0, 7], [b'"one"', b'"100 %b"']), ([99_999_999, 10**14], [talk, '"\\"été\\""'.encode()]), ([10**14 + 1], [b'""'])]
    lines = [encoder.line(position, fragment) for block in blocks for position, fragment in zip(*block, strict=True)]
    arrays = ((np.array(positions), pa.array(fragments, pa.large_binary())) for positions, fragments in blocks)
    assert b"".join(encoder.file(arrays)) == b"".join(encoder.envelope.around(iter(lines)))
    assert b"".join(encoder.file([])) == b"".join(encoder.envelope.around(iter([])))


def test_only_what_all_rows_share_is_marked(wire: Wire) -> None:
    """A row's own words are written once and read by nobody."""
    caching = wire.provider.caching(Question(system=None, output=output_schema(Label).to_json()), wire.peer.model)
    for ttl in [None, *caching.ttl.values()]:
        encoder = wire.provider.encoder(Question(system="Be brief.", output=output_schema(Label).to_json()), wire.peer.model, "a" * 10, ttl)
        line = encoder.line(0, b'[{"role":"user","content":"one"}]')
        assert len(re.findall(rb'"(?:cache_control|prompt_cache_breakpoint|cachePoint)"', line)) == (ttl is not None)


@pytest.mark.parametrize(
    ("params", "words"),
    [({"model": "gpt-5"}, "names model"), ({"max_tokens": 9, "n": 2}, "names max_tokens, n"), ({"messages": []}, "names messages")],
)
def test_what_keld_says_itself_is_refused_in_params(wire: Wire, params: dict[str, Any], words: str) -> None:
    """It would ask another model, more answers or longer ones than the plan and the ceiling were reckoned with."""
    with pytest.raises(InvalidJob, match=f"labels: params {words}, which Keld sets itself"):
        wire.provider.check(Question(system=None, output=output_schema(Label).to_json(), params=params), wire.peer.model, "labels")


def test_a_shard_file_has_no_line_separators_inside_its_lines(wire: Wire) -> None:
    """Trap 12: readers that follow Unicode's line ends would cut a prompt in two."""
    written = wire.file(["a\u2028b\u2029c\x85d", "e\r\nf"]).read_bytes()
    assert not re.search("\ufeff|\u2028|\u2029|\x85|\r", written.decode())
    assert not isinstance(json.loads(written if wire.peer is anthropic else written.splitlines()[0]), str)


def test_a_prompt_arrives_as_it_was_written(open_emulator: Callable[..., Emulator], peer: Peer, tmp_path: Any) -> None:
    """Whatever is escaped on the way, the model reads the row's own text."""
    heard: list[str] = []
    emulator = open_emulator(responder=lambda body: heard.append(said_in(body)) or "{}")
    wire = Wire(peer, emulator, tmp_path)
    prompts = ["a\u2028b\u2029c\x85d\ufeff", 'quote " brace } back\\slash', "😀 \x00 \t\r\n", "hole-" + "0" * 32]
    path = wire.file(prompts)
    ref = wire.provider.upload(path, "a" * 10)
    from keld.providers.base import Submission

    asked = Submission(key="k", path=path, input_ref=ref, model=peer.model, endpoint="/v1/chat/completions", requests=len(prompts))
    assert isinstance(wire.provider.create(asked), Created)
    emulator.advance(60)
    assert sorted(heard) == sorted(prompts)


def said_in(body: dict[str, Any]) -> str:
    """The last message of a request, in any family's form."""
    return str(body["contents"][-1]["parts"][0]["text"]) if "contents" in body else text_of(body["messages"][-1]["content"])


# --- looking ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_in_progress_until_the_provider_says_otherwise(wire: Wire) -> None:
    """Trap 5: a 200 from create is not the provider's last word."""
    batch = wire.create()
    assert batch.state is BatchState.IN_PROGRESS
    assert wire.look(batch).state is BatchState.IN_PROGRESS
    wire.emulator.advance(60)
    assert wire.look(batch).state is BatchState.COMPLETED


def test_a_status_never_seen_before_is_in_progress(wire: Wire) -> None:
    """Trap 15: a new word must neither crash the loop nor end it."""
    fault(wire.emulator, "life", "status", value="paused_for_review")
    batch = wire.look(wire.create())
    assert batch.state is BatchState.IN_PROGRESS
    assert batch.native == "paused_for_review"


def test_a_batch_that_is_not_there_is_none(wire: Wire) -> None:
    """Trap 18: whether it is lag or loss is for the runner to judge, by the time that passed."""
    assert wire.provider.get("batch_never_made") is None


def test_a_new_batch_may_be_hidden_and_found_later(wire: Wire) -> None:
    """Trap 18: a 404 right after the create is lag."""
    fault(wire.emulator, "create", "hidden", for_s=30)
    batch = wire.create()
    assert wire.provider.get(batch.id) is None
    wire.emulator.advance(30)
    assert wire.look(batch).id == batch.id


def test_the_list_is_read_beyond_its_first_page(wire: Wire) -> None:
    """Trap 13: a batch on the second page is not absent."""
    wire.provider.traits = replace(wire.provider.traits, list_page=2)
    made = [wire.create(1, nonce=f"batchno{n:03d}").id for n in range(5)]
    found = [batch.id for batch in wire.provider.batches(wire.emulator.now() - DAY)]
    assert sorted(found) == sorted(made)
    assert not wire.peer.newest_first or found == made[::-1]  # without an order, ids that are drawn may by chance have this one


def test_the_list_is_not_read_to_its_end_when_a_whole_page_is_too_old(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workspace may hold years of batches."""
    wire.provider.traits = replace(wire.provider.traits, list_page=2)
    monkeypatch.setattr(page, "_SHOWN", 4)  # batches, that show that the youngest come first
    old = [wire.create(1, nonce=f"oldbatch{n:02d}").id for n in range(6)]
    wire.emulator.advance(DAY)
    young = wire.create(1, nonce="youngbatch").id
    listing = wire.provider.batches(wire.emulator.now() - timedelta(hours=1), whole=not wire.peer.newest_first)
    found = [batch.id for batch in listing]
    assert young in found
    assert (old[0] not in found) is (wire.peer.newest_first and wire.peer.pages), "a list without an order is read to its end"
    assert listing.complete is wire.peer.pages, "one reply that does not say that there is no more proves nothing"


def test_a_look_that_meets_a_fault_of_the_server_can_be_repeated(wire: Wire) -> None:
    """Looks cost nothing: the SDK repeats them, and after that the runner does."""
    batch = wire.create()
    fault(wire.emulator, "get", "status", status=503, times=None, retry_after=0.001)
    with pytest.raises(ProviderUnreachable):
        wire.provider.get(batch.id)
    wire.emulator.clear_faults()
    assert wire.look(batch).id == batch.id


def test_a_look_at_noise_is_a_fault_of_the_server(wire: Wire) -> None:
    """A proxy's HTML page with status 200 says nothing about the batch."""
    batch = wire.create()
    fault(wire.emulator, "get", "garbage")
    with pytest.raises(ProviderUnreachable):
        wire.provider.get(batch.id)


def test_a_refused_key_is_told_without_the_key(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message goes to logs and to people."""
    batch = wire.create()
    fault(wire.emulator, "get", "status", status=401, message=f"Incorrect API key provided: {wire.emulator.api_key}. Bearer abcdefgh")
    with pytest.raises(AccessRefused) as refused:
        wire.provider.get(batch.id)
    assert wire.emulator.api_key not in str(refused.value)
    assert "abcdefgh" not in str(refused.value)


def test_the_words_of_a_refusal_of_prompts_are_left_out(wire: Wire) -> None:
    """A provider may quote the prompt it refuses; messages go to the ledger."""
    submission = wire.submission()
    fault(wire.emulator, "create" if wire.peer is anthropic else "upload", "status", status=400, message="Bad text: 'CANARY ticket'")
    try:
        said = str(wire.provider.create(submission) if wire.peer is anthropic else wire.provider.upload(submission.path, "k"))
    except Exception as error:
        said = str(error)
    assert "400" in said
    assert "CANARY" not in said


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_batch_that_has_ended_can_be_cancelled_without_a_fault(wire: Wire) -> None:
    """Who comes too late has what he wanted."""
    wire.provider.cancel(wire.ended().id)


def test_cancelling_keeps_what_was_answered(wire: Wire) -> None:
    """Trap 22: it is paid."""
    batch = wire.create(10)
    wire.emulator.advance(30)
    wire.provider.cancel(batch.id)
    assert wire.look(batch).state is (BatchState.CANCELLING if wire.peer.says_cancelling else BatchState.IN_PROGRESS)
    wire.emulator.advance(10)
    ended = wire.look(batch)
    assert ended.state is BatchState.CANCELLED
    found = [reply.outcome for reply in wire.replies(ended)]
    assert wire.emulator.bill()
    assert wire.provider.traits.keeps_on_cancel is wire.peer.keeps_partial
    if not wire.peer.keeps_partial:
        assert found == []
        return
    assert found.count(Outcome.ANSWERED) == len(wire.emulator.bill())
    assert found.count(Outcome.CANCELLED) == (10 - len(wire.emulator.bill()) if wire.peer.names_unreached else 0)


def test_an_expired_batch_hands_out_what_was_answered(wire: Wire) -> None:
    """Traps 15 and 22: an end that is no success, with answers that are paid."""
    fault(wire.emulator, "life", "expire", done=0.3)
    ended = wire.ended(10)
    assert ended.state is BatchState.EXPIRED
    replies = wire.replies(ended)
    assert wire.provider.traits.keeps_on_expiry is wire.peer.keeps_partial
    if not wire.peer.keeps_partial:
        assert (replies, len(wire.emulator.bill())) == ([], 3)
        return
    assert sorted(reply.outcome for reply in replies) == [Outcome.ANSWERED] * 3 + [Outcome.EXPIRED] * (
        7 if wire.peer.names_unreached else 0
    )
    assert all(reply.retryable for reply in replies if reply.outcome is Outcome.EXPIRED)


def test_past_its_time_a_batch_is_not_ended_by_our_clock(wire: Wire) -> None:
    """Trap 17: it has ended when the provider says so; late results do arrive."""
    fault(wire.emulator, "life", "stuck")
    assert wire.ended().state is BatchState.IN_PROGRESS


def test_a_broken_download_goes_on_where_it_broke(wire: Wire) -> None:
    """Trap 25: 200 MB from the beginning, over and over, may never come to their end."""
    over_http(wire)
    batch = wire.ended(20)
    fault(wire.emulator, "download", "truncate", bytes=1500)
    assert len(wire.replies(batch)) == 20
    downloads = [
        call.status
        for call in wire.emulator.requests()
        if call.path.endswith(("/content", "/results", ":download")) or "/store/" in call.path
    ]
    assert downloads[:2] == [200, 206]


def test_a_download_that_never_comes_to_its_end_is_kept_for_another_process(wire: Wire) -> None:
    """Trap 25: what came so far is on disk; tomorrow's process asks for the rest only."""
    over_http(wire)
    batch = wire.ended(20)
    fault(wire.emulator, "download", "truncate", bytes=1500, times=4)
    with pytest.raises(ProviderUnreachable, match="bytes are kept"):
        wire.provider.download(batch, wire.into, 1 << 30)
    before = len(wire.emulator.requests())
    wire.provider = wire.connect()
    assert len(wire.replies(batch)) == 20
    assert 206 in [call.status for call in wire.emulator.requests()[before:]]


@pytest.mark.parametrize("sized", [True, False])
def test_what_a_dead_worker_has_of_a_download_is_not_believed_wherever_it_was_cut_off(wire: Wire, sized: bool) -> None:
    """Found by reading after kills: cut off behind an inner brace, or a whole line, it looked whole; its other rows were lost, and bought again."""
    over_http(wire)
    batch = wire.ended(2)
    path, *_ = wire.provider.download(batch, wire.into, 1 << 30)
    whole = path.read_bytes()
    assert whole.count(b"}") > 5
    fault(wire.emulator, "download", "truncate", bytes=10, times=4)
    with pytest.raises(ProviderUnreachable):
        wire.provider.download(batch, wire.into, 1 << 30)
    (part,) = wire.folder.glob("*.part")
    for cut in [n + 1 for n, byte in enumerate(whole) if byte in b"}\n"]:
        path.unlink()
        part.write_bytes(whole[:cut])
        if not sized:
            fault(wire.emulator, "get", "status", status=404)  # a host that does not say what a result file weighs
        wire.provider.download(batch, wire.into, 1 << 30)
        wire.emulator.clear_faults()
        assert path.read_bytes() == whole, f"cut off after {cut:,} of {len(whole):,} bytes"


def test_what_is_left_of_one_download_is_no_beginning_of_another(wire: Wire) -> None:
    """A provider may name only the errors of a batch, and its answers, which come first, the next time."""
    over_http(wire)
    one, other = wire.ended(20, "a" * 10), wire.ended(20, "b" * 10)
    fault(wire.emulator, "download", "truncate", bytes=1500, times=4)
    with pytest.raises(ProviderUnreachable, match="bytes are kept"):
        wire.provider.download(one, wire.into, 1 << 30)
    assert {reply.custom_id[:10] for reply in wire.replies(other)} == {"b" * 10}


def test_a_short_body_that_looks_whole_is_not_believed(wire: Wire) -> None:
    """Trap 18: a proxy that closes cleanly too early has not delivered the file."""
    batch = wire.ended(20)
    fault(wire.emulator, "download", "truncate", bytes=1500, clean=True, match=of_results(wire))
    assert len(wire.replies(batch)) == 20


def test_a_fault_of_the_server_at_the_download_is_no_lost_result(wire: Wire) -> None:
    """Trap 18: a transient 502 is repeated, not told as missing rows."""
    batch = wire.ended()
    fault(wire.emulator, "download", "status", status=502, times=None, retry_after=0.001)
    with pytest.raises(ProviderUnreachable):
        wire.provider.download(batch, wire.into, 1 << 30)
    wire.emulator.clear_faults()
    assert len(wire.replies(batch)) == 3


def test_an_answer_that_unfolds_without_end_is_not_unfolded(wire: Wire) -> None:
    """Hostile or broken: what is asked for is the plain file."""
    batch = wire.ended(3)
    fault(wire.emulator, "download", "gzip_bomb", size_mb=8, match=of_results(wire))
    assert len(wire.replies(batch)) == 3


def test_answers_are_matched_by_id_not_by_line(wire: Wire) -> None:
    """Trap 19: order is not a contract anywhere."""
    fault(wire.emulator, "lines", "reorder", order="reverse")
    replies = wire.replies(wire.ended(5))
    found = [position(reply.custom_id) for reply in replies]
    assert sorted(found) == [0, 1, 2, 3, 4] != found


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (404, False), (413, False), (429, True), (500, True), (503, True)])
def test_a_refused_row_is_asked_again_only_where_that_can_help(wire: Wire, status: int, retryable: bool) -> None:
    """Trap 24: a bad request stays bad, a full server does not stay full.  Trap 21: `error` stands in another place at each."""
    fault(wire.emulator, "rows", "error", status=status, count=1)
    refused = [reply for reply in wire.replies(wire.ended(3)) if reply.outcome is Outcome.ERRORED]
    assert [reply.retryable for reply in refused] == [retryable]
    assert refused[0].error


def test_a_refusal_and_a_cut_answer_are_no_answers(wire: Wire) -> None:
    """Trap 28: HTTP 200, and useless; paid all the same."""
    fault(wire.emulator, "rows", "refusal", match={"custom_id": "0"})
    fault(wire.emulator, "rows", "length", match={"custom_id": "1"})
    replies = {position(reply.custom_id): reply for reply in wire.replies(wire.ended(3))}
    refused = Outcome.REFUSED if wire.peer.says_refused else Outcome.ANSWERED
    assert [replies[n].outcome for n in range(3)] == [refused, Outcome.INVALID, Outcome.ANSWERED]
    assert all(reply.input_tokens > 0 and not reply.retryable for reply in replies.values())


def test_tokens_are_counted_as_the_provider_bills_them(wire: Wire) -> None:
    """What was used is what was paid; cached input is told apart, and counted once."""
    replies = {reply.custom_id: reply for reply in wire.replies(wire.ended(4))}
    for entry in wire.emulator.bill():
        reply = replies[entry.custom_id or ""]
        whole = entry.input_tokens + (entry.cached_tokens + entry.cache_write_tokens if wire.peer.name == "anthropic" else 0)
        assert (reply.input_tokens, reply.output_tokens, reply.cached_tokens) == (whole, entry.output_tokens, entry.cached_tokens)


def over_http(wire: Wire) -> None:
    """The rest of a test is about a file over HTTP."""
    if wire.peer.in_bucket:
        pytest.skip("its results are read by obstore, in pieces that it repeats by itself; see test_bedrock")


def of_results(wire: Wire) -> dict[str, str]:
    """Matches the reading of answers, not of what is beside them in a bucket."""
    return {"path": ".jsonl.out"} if wire.peer.in_bucket else {}


def text_of(content: Any) -> str:
    """A message's text, given as such or in blocks."""
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def position(custom_id: str) -> int:
    return int(custom_id[10:].removeprefix("-"))


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
