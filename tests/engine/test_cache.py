"""Prompt caching: marked where it is expected to pay, reserved at its worst, billed as the provider says, learned from what it did."""

import doctest
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from pydantic import TypeAdapter
from rich.console import Console

from keld import Column, Job, Keld, Status, cache
from keld.cache import UNMARKED, Cache, Caching, Read, Ttl, mark_of, unmarked
from keld.emulator import Emulator
from keld.errors import CeilingTooLow, InvalidJob
from keld.plan import Work
from keld.price import Bracket, Lane, Rates
from keld.pricing import rates
from keld.providers.account import Account
from keld.providers.provider import connect
from keld.request import Question
from keld.schema import output_schema
from keld.view import outcome_view, plan_view, status_view
from tests.support.ticket_job import Label, Peer, anthropic, fault, finish, openai, run, tickets, triage

pytestmark = pytest.mark.by_turns

LONG = "You triage support tickets by the handbook. " * 500  # 22,000 bytes, 5,500 tokens of the emulator's: above every minimum
SHORT = LONG[:2_000]
NEWER = Peer(name="openai", model="gpt-6.1-sol", creates="/v1/batches")
DAY = datetime(2026, 11, 20, 12, tzinfo=UTC)
SOURCE = "a list"
CLAUDE = Caching(least_tokens=4_096, by_itself=False, ttl={Lane.BATCH: Ttl.HOUR, Lane.STANDARD: Ttl.MINUTES})


def _rates(cached: Any = "0.1", write: Any = "1.25", write_1h: Any = 2, full: Any = 1) -> Rates:
    bracket = Bracket(
        above=0,
        input=Decimal(full),
        cached=Decimal(cached),
        cache_write=Decimal(write),
        cache_write_1h=Decimal(write_1h),
        output=Decimal(5),
    )
    return Rates(brackets=(bracket,), source=SOURCE)


def marked(*of: Any, **how: bool) -> Cache:
    """The mark, if it is expected to pay for some number of rows."""
    mark = mark_of(*of, **how)
    return UNMARKED if mark.least_requests is None else mark


def billed(emulator: Emulator, at: datetime) -> Decimal:
    """What the provider will charge, entry by entry, by the price list of the day."""
    total = Decimal(0)
    for entry in emulator.bill():
        found = rates(entry.provider, entry.model, Lane(entry.lane), at)
        assert found is not None
        rate = found.base
        fresh = entry.input_tokens - (entry.cached_tokens + entry.cache_write_tokens if entry.provider == "openai" else 0)
        minutes = entry.cache_write_tokens - entry.cache_write_1h_tokens
        usd = fresh * rate.input + entry.cached_tokens * rate.cached + minutes * rate.cache_write
        total += usd + entry.cache_write_1h_tokens * rate.cache_write_1h + entry.output_tokens * rate.output
    return total / 10**6


def marks(status: Status) -> list[str | None]:
    return [batch.cache_ttl for batch in status.batches]


def _text(view: Any) -> str:
    console = Console(width=400)
    with console.capture() as caught:
        console.print(view)
    return caught.get()


# --- whether it pays --------------------------------------------------------------------------------------------------


def test_what_the_docstrings_reckon_is_so() -> None:
    assert doctest.testmod(cache).failed == 0


def test_fewer_rows_than_pay_for_the_write_are_not_marked() -> None:
    """One writes at least, for an hour at twice the price: with two in three hits five rows lose, six gain."""
    found = marked(CLAUDE, Lane.BATCH, _rates(), 20_000, Read(), ahead=True)
    assert [found.of(requests).ttl for requests in (1, 5, 6, 100_000)] == [None, None, Ttl.HOUR, Ttl.HOUR]


def test_a_cold_batch_is_expected_to_read_nothing_and_a_warm_one_the_middle_of_what_is_said() -> None:
    """Others measured 0 % of five cold batches, and every row behind a batch of one (docs/notes/providers.md)."""
    assert marked(CLAUDE, Lane.BATCH, _rates(), 20_000, Read()) == UNMARKED
    warm = marked(CLAUDE, Lane.BATCH, _rates(), 20_000, Read(), warm=True)
    assert (warm.ttl, warm.hits, warm.of(1).ttl) == (Ttl.HOUR, 0.64, Ttl.HOUR)
    assert (warm.read(10_000, 2), structs.replace(warm, warm=False).read(10_000, 2)) == (6_400, 3_200), (
        "without it one of the two rows writes"
    )


def test_what_cold_batches_reported_replaces_the_prior_of_cold_batches() -> None:
    """A large batch may read what its own first rows wrote; fifty rows weigh as much as the prior of none."""
    seen = Read(rows=150, read_tokens=90, written_tokens=10)
    assert marked(CLAUDE, Lane.BATCH, _rates(), 20_000, seen).hits == pytest.approx(0.75 * 0.9)


@given(
    hits=st.floats(0, 1), requests=st.integers(1, 1_000), cached=st.decimals("0.01", "0.5", places=2), write=st.decimals("1", "3", places=2)
)
def test_what_is_marked_is_expected_to_be_cheaper(hits: float, requests: int, cached: Decimal, write: Decimal) -> None:
    """And what is not marked would be dearer: nothing is left lying, and no premium is paid for a prefix that nobody reads again."""
    found, work = _rates(cached=cached, write_1h=write), structs.replace(WORK, requests=requests)
    seen = Read(rows=10**12, read_tokens=int(hits * 10**9), written_tokens=10**9 - int(hits * 10**9))
    mark = marked(CLAUDE, Lane.BATCH, found, work.shared_bytes, seen)
    of_it = Cache(ttl=Ttl.HOUR, hits=seen.read_tokens / 10**9, least_tokens=4_096, least_requests=1)
    plain, forced = work.expected_usd(found), work.expected_usd(found, None, of_it)
    assert work.expected_usd(found, None, mark) <= plain * Decimal("1.000001")
    if mark.of(requests).ttl is None:
        assert forced >= plain * Decimal("0.99999")


WORK = Work(requests=1_000, prompt_bytes=400_000, longest_bytes=900, shared_bytes=22_000, output_kind="object", max_output_tokens=100)


@pytest.mark.parametrize(
    ("found", "lane"),
    [(_rates(cached=1, write=1, write_1h=1), Lane.BATCH), (_rates(cached=1), Lane.STANDARD), (_rates(), Lane.FLEX)],
    ids=["no discount", "writes only", "a lane without marks"],
)
def test_where_nothing_can_be_saved_nothing_is_marked(found: Rates, lane: Lane) -> None:
    assert marked(CLAUDE, lane, found, 20_000, Read(), ahead=True) == UNMARKED


def test_a_beginning_that_is_too_short_to_be_kept_is_not_marked() -> None:
    assert marked(CLAUDE, Lane.BATCH, _rates(), 3 * 4_096 - 1, Read(), ahead=True) == UNMARKED
    assert marked(CLAUDE, Lane.BATCH, _rates(), 3 * 4_096, Read(), ahead=True).ttl is Ttl.HOUR


def test_a_cache_that_was_hardly_read_is_not_written_again() -> None:
    """The low end of what Anthropic says, 30 %, costs 1.4 times what plain input does."""
    poor = Read(rows=10_000, read_tokens=30, written_tokens=70)
    assert marked(CLAUDE, Lane.BATCH, _rates(), 20_000, poor, ahead=True) == UNMARKED
    assert marked(CLAUDE, Lane.STANDARD, _rates(), 20_000, poor).ttl is Ttl.MINUTES, "at the lower premium even that pays"


def test_fifty_rows_weigh_as_much_as_the_prior() -> None:
    assert marked(CLAUDE, Lane.BATCH, _rates(), 20_000, Read(rows=50, read_tokens=96, written_tokens=4), warm=True).hits == pytest.approx(
        0.8
    )


def test_of_a_cache_that_goes_by_itself_nothing_is_expected_before_it_was_seen() -> None:
    own = Caching(least_tokens=1_024, by_itself=True, ttl={})
    assert unmarked(own, 0, 0.0, 0).hits == 0
    assert unmarked(own, 900, 1_000.0, 150).hits == pytest.approx(0.75 * 0.9)


@given(requests=st.integers(1, 10**5), part=st.integers(0, 10**5), shared=st.integers(0, 10**5), ttl=st.sampled_from([None, *Ttl]))
def test_the_parts_of_a_job_never_reserve_more_than_the_whole(requests: int, part: int, shared: int, ttl: Ttl | None) -> None:
    part = min(part, requests - 1)
    whole = structs.replace(WORK, requests=requests, prompt_bytes=100 * requests, shared_bytes=shared)
    mark = Cache(ttl=ttl, hits=0.6, least_tokens=1, least_requests=6)
    parts = [whole.of(n, 100 * n).worst_usd(_rates(), mark) for n in (part, requests - part) if n]
    assert sum(parts) <= whole.worst_usd(_rates(), mark)


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "least"),
    [
        ("claude-haiku-4-5", 4_096), ("claude-haiku-4-5-20251001", 4_096), ("claude-sonnet-4-5", 1_024), ("claude-sonnet-5", 1_024),
        ("claude-opus-4-5", 4_096), ("claude-opus-4-6", 4_096), ("claude-opus-4-7", 2_048), ("claude-opus-4-8", 1_024), ("claude-opus-5", 512),
        ("claude-3-5-haiku-latest", 2_048), ("claude-opus-4-1", 1_024), ("something-new", 1_024),
    ],
)  # fmt: skip
def test_how_long_a_beginning_must_be_at_anthropic(model: str, least: int) -> None:
    assert (
        connect("anthropic", Account(kind="anthropic"))
        .caching(Question(system=None, output={"kind": "text", "name": "answer"}), model)
        .least_tokens
        == least
    )


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("gpt-5-mini", False), ("gpt-4o", False), ("gpt-5.5", False), ("gpt-5.6", True), ("gpt-5.6-sol-2026-06-01", True), ("gpt-6", True),
        ("gpt-6.1-sol", True), ("ft:gpt-6.1-sol:a::b", True), ("gpt-oss-120b", False), ("o4-mini", False), ("my-model", False),
    ],
)  # fmt: skip
def test_which_models_of_openai_take_marks(model: str, takes: bool) -> None:
    assert (
        bool(connect("openai", Account(kind="openai")).caching(Question(system=None, output={"kind": "text", "name": "answer"}), model).ttl)
        is takes
    )


def _body(peer: Peer, ttl: Ttl | None, prompt: bytes = b'"hello"', **question: Any) -> dict[str, Any]:
    shared = Question(**{"system": "Be brief.", "output": output_schema(Label).to_json(), "max_output_tokens": 256, **question})
    encoder = connect(peer.name, Account(kind=peer.name)).encoder(shared, peer.model, "a" * 10, ttl)
    assert len(encoder.line(0, prompt)) <= encoder.overhead_bytes + len(prompt)
    body: dict[str, Any] = json.loads(encoder.body(prompt, Lane.STANDARD))
    return body


def _as_read(kind: Any, body: dict[str, Any]) -> Any:
    """What the SDK's types know of a body: a field they do not know is left out."""
    known: Any = TypeAdapter(kind)
    return json.loads(known.dump_json(known.validate_python(body), warnings=False))


ROWS = [b'"hello"', b'[{"role":"user","content":"hello"}]', b'[{"role":"system","content":"Own."},{"role":"user","content":"hello"}]']


@pytest.mark.share(3)
@pytest.mark.parametrize("prompt", ROWS, ids=["text", "messages", "own system message"])
@pytest.mark.parametrize("ttl", [None, Ttl.MINUTES, Ttl.HOUR])
def test_a_marked_request_is_one_of_the_sdks(prompt: bytes, ttl: Ttl | None) -> None:
    """The provider validates a batch's requests in the night, one by one."""
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming

    body = _body(anthropic, ttl, prompt)
    assert _as_read(MessageCreateParamsNonStreaming, body) == body
    system = body["system"]
    if ttl is None:
        assert isinstance(system, str)
    else:
        assert system[0] == {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": ttl.value}}
        assert [block["text"] for block in system[1:]] == (["Own."] if b"Own" in prompt else [])
        assert all("cache_control" not in block for block in system[1:])


@pytest.mark.parametrize("prompt", ROWS, ids=["text", "messages", "own system message"])
@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_a_marked_request_of_openais_newer_models_is_one_of_the_sdks(prompt: bytes, endpoint: str) -> None:
    from openai.types.chat import ChatCompletionContentPartTextParam
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
    from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

    body = _body(NEWER, Ttl.HALF_HOUR, prompt, endpoint=endpoint)
    chat = endpoint == "/v1/chat/completions"
    if chat:  # a list of parts is read once only, and messages are held against several types
        assert _as_read(ChatCompletionContentPartTextParam, body["messages"][0]["content"][0]) == body["messages"][0]["content"][0]
        rest = body | {"messages": body["messages"][1:]}
        assert _as_read(CompletionCreateParamsNonStreaming, rest) == rest
    else:
        assert _as_read(ResponseCreateParamsNonStreaming, body) == body
    first = body["messages" if chat else "input"][0]
    text = {"type": "text" if chat else "input_text", "text": "Be brief.", "prompt_cache_breakpoint": {"mode": "explicit"}}
    assert first == {"role": "system", "content": [text]}
    assert body["prompt_cache_options"] == {"mode": "explicit"}
    assert body["prompt_cache_key"] == _body(NEWER, Ttl.HALF_HOUR, b'"another"', endpoint=endpoint)["prompt_cache_key"]


def test_without_a_mark_a_newer_model_of_openai_writes_nothing() -> None:
    """Left to itself it writes every row's own words, at a quarter more, and nobody reads them again."""
    body = _body(NEWER, None)
    assert body["prompt_cache_options"] == {"mode": "explicit"}
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert "prompt_cache_key" not in body


def test_older_models_of_openai_and_other_hosts_are_told_nothing() -> None:
    """They cache by themselves, and some refuse fields that they do not know."""
    assert [name for name in _body(openai, None) if "cache" in name] == []


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", [anthropic, NEWER], ids=["anthropic", "openai"])
def test_the_bill_is_the_ledgers_and_the_cache_saves(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    status = run(keld, emulator, triage(peer, system=LONG), tickets(20))
    assert marks(status) == ["1h" if peer is anthropic else "30m"] * 2, "one row first, then the others"
    assert status.answered == 20
    assert status.cost_usd == billed(emulator, status.created_at)
    assert sum(keld.read(status.id).read_all().column("keld_cost_usd").to_pylist()) == status.cost_usd
    bill = emulator.bill()
    assert sum(1 for entry in bill if entry.cached_tokens) == 19, "one writes, the others read"
    assert status.cached_tokens == sum(entry.cached_tokens for entry in bill)
    assert status.cache_hit_rate == pytest.approx(status.cached_tokens / status.input_tokens, abs=1e-4)
    found = rates(peer.name, peer.model, Lane.BATCH, status.created_at)
    assert found is not None
    written = sum(entry.cache_write_tokens for entry in bill)
    write = found.base.cache_write_1h if peer is anthropic else found.base.cache_write
    saved = status.cached_tokens * (found.base.input - found.base.cached) - written * (write - found.base.input)
    assert status.cache_saved_usd == saved / 10**6
    assert status.batches[0].cache_saved_usd < 0 < status.cache_saved_usd == sum(batch.cache_saved_usd for batch in status.batches)


@pytest.mark.parametrize("peer", [anthropic, NEWER], ids=["anthropic", "openai"])
def test_where_every_row_writes_and_none_reads_the_ceiling_holds(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], peer: Peer
) -> None:
    """Best effort may be none at all.  The reservation is of that, and what was lost by it is told."""
    emulator = open_emulator()
    fault(emulator, "rows", "cache_miss", times=None)
    keld = open_keld(clock=emulator.now)
    job = triage(peer, system=LONG, max_output_tokens=20)
    worst = keld.plan(job, tickets(20)).chosen.worst_usd  # type: ignore[union-attr]
    status = run(keld, emulator, replace(job, ceiling_usd=worst), tickets(20))
    assert marks(status) == ["1h" if peer is anthropic else "30m"] * 2
    assert all(entry.cache_write_tokens > 5_000 and not entry.cached_tokens for entry in emulator.bill())
    assert status.cost_usd == billed(emulator, status.created_at)
    assert worst is not None
    assert status.cost_usd <= worst
    assert status.cache_saved_usd < 0
    assert "more than it saved" in _text(status_view(status))


def test_the_reserve_is_the_write_of_what_is_shared_and_no_more(keld: Keld) -> None:
    job = triage(anthropic, system=LONG)
    worst = {how: keld.plan(replace(job, cache=how), tickets(20)).chosen.worst_usd for how in ("auto", "never")}  # type: ignore[union-attr]
    work = keld.plan(job, tickets(20)).work
    found = rates("anthropic", anthropic.model, Lane.BATCH, DAY)
    assert found is not None
    shared = 20 * (work.shared_bytes // 2 + 8)
    assert worst["auto"] - worst["never"] == shared * (found.base.cache_write_1h - found.base.input) / 10**6
    assert worst["never"] == work.worst_usd(found), "nothing that is not marked is written there"


def test_a_ceiling_without_room_for_the_writes_is_kept_without_a_mark(keld: Keld, emulator: Emulator) -> None:
    """A cache is there to save money: it must not be what a job run is refused for."""
    job = triage(anthropic, system=LONG)
    plain = keld.plan(replace(job, cache="never"), tickets(20)).chosen.worst_usd  # type: ignore[union-attr]
    status = run(keld, emulator, replace(job, ceiling_usd=plain), tickets(20))
    assert (status.answered, marks(status)) == (20, [None])
    assert plain is not None
    with pytest.raises(CeilingTooLow):
        keld.plan(replace(job, ceiling_usd=plain - Decimal("0.0001")), tickets(20))


@pytest.mark.parametrize(
    ("rows", "terms"),
    [(1, {}), (5, {}), (20, {"system": SHORT}), (20, {"system": None}), (20, {"cache": "never"}), (20, {"probe": False})],
    ids=["one row", "too few", "too short", "no system prompt", "never", "a cold batch"],
)
def test_what_does_not_pay_is_not_marked(keld: Keld, emulator: Emulator, rows: int, terms: dict[str, Any]) -> None:
    status = run(keld, emulator, triage(anthropic, **{"system": LONG, **terms}), tickets(rows))
    assert status.answered == rows
    assert set(marks(status)) == {None}
    assert not any(entry.cache_write_tokens or entry.cached_tokens for entry in emulator.bill())
    assert status.cost_usd == billed(emulator, status.created_at)
    assert status.cache_saved_usd == 0


def test_a_shard_of_one_row_is_marked_where_it_is_warm(keld: Keld, emulator: Emulator) -> None:
    """It reads what the first row wrote; nothing has to be written for it."""
    status = run(keld, emulator, triage(anthropic, system=LONG, max_shard_rows=10), tickets(22))
    assert marks(status) == ["1h"] * 4
    assert sum(1 for entry in emulator.bill() if entry.cache_write_tokens) == 1
    assert status.cost_usd == billed(emulator, status.created_at)


def test_in_a_fast_lane_the_cache_is_of_minutes_and_the_first_row_goes_ahead(keld: Keld, emulator: Emulator) -> None:
    """Rows sent beside the first would all write what they could read a second later."""
    status = run(keld, emulator, triage(anthropic, system=LONG, lane="standard"), tickets(20))
    bill = emulator.bill()
    assert marks(status) == ["5m"]
    assert [bool(entry.cache_write_tokens) for entry in bill].count(True) == 1
    assert not any(entry.cache_write_1h_tokens for entry in bill)
    assert status.cost_usd == billed(emulator, status.created_at)


def test_a_cache_that_goes_by_itself_is_billed_as_told(keld: Keld, emulator: Emulator) -> None:
    status = run(keld, emulator, triage(openai, system=LONG), tickets(20))
    assert marks(status) == [None]
    assert status.cost_usd == billed(emulator, status.created_at)
    assert status.cached_tokens > 0
    assert status.cache_saved_usd > 0


# --- a user's own marks -----------------------------------------------------------------------------------------------


def _conversations(count: int) -> pa.Table:
    mark = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    rows = [
        json.dumps([{"role": "user", "content": [{"type": "text", "text": LONG, **mark}, {"type": "text", "text": f"ticket {n}"}]}])
        for n in range(count)
    ]
    return pa.table({"ticket_id": [f"t-{n}" for n in range(count)], "said": rows})


@pytest.mark.parametrize(
    ("terms", "table"),
    [
        ({"params": {"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "system": LONG}, tickets(20)),
        ({"prompt": Column("said", json=True), "system": LONG}, _conversations(20)),
    ],
    ids=["in params", "in the rows"],
)
def test_a_users_own_mark_is_left_alone_and_reserved_for(keld: Keld, emulator: Emulator, terms: dict[str, Any], table: pa.Table) -> None:
    fault(emulator, "rows", "cache_miss", times=None)
    job = triage(anthropic, max_output_tokens=20, **terms)
    worst = keld.plan(job, table).chosen.worst_usd  # type: ignore[union-attr]
    status = run(keld, emulator, replace(job, ceiling_usd=worst), table)
    assert (status.answered + status.failed, marks(status)) == (20, [None])
    assert all(entry.cache_write_1h_tokens > 5_000 for entry in emulator.bill())
    assert worst is not None
    assert status.cost_usd == billed(emulator, status.created_at) <= worst


def test_a_row_that_only_speaks_of_caching_marks_nothing(keld: Keld, emulator: Emulator) -> None:
    table = pa.table({"ticket_id": [f"t-{n}" for n in range(20)], "body": [f'Why {n} "cache_control": {{"type"?' for n in range(20)]})
    assert marks(run(keld, emulator, triage(anthropic, system=LONG), table)) == ["1h", "1h"]


def test_cache_is_one_of_two_words() -> None:
    with pytest.raises(InvalidJob, match="auto, never"):
        Job(name="a", key="id", prompt="{b}", models="openai:m", cache="always")


# --- what is learned --------------------------------------------------------------------------------------------------


def _expected(keld: Keld, peer: Peer = anthropic, rows: int = 200) -> Any:
    return keld.plan(triage(peer, system=LONG), tickets(rows)).chosen


def test_what_was_read_is_learned_and_forgotten_after_a_fortnight(keld: Keld, emulator: Emulator) -> None:
    before = _expected(keld).cache.hits
    run(keld, emulator, triage(anthropic, system=LONG), tickets(200), partition="2026-11-18")
    emulator.advance(timedelta(hours=2))
    seen = [
        keld.ledger.history.read_from_cache("anthropic", emulator.url, anthropic.model, "batch", DAY, warm=warm) for warm in (False, True)
    ]
    assert [one.rows for one in seen] == [0, 199], "the row that went ahead counts for neither"
    after = _expected(keld).cache.hits
    assert before == 0.64
    assert after == pytest.approx(50 / 249 * 0.64 + 199 / 249), "of the 199 rows behind the first all read"
    emulator.advance(timedelta(days=15))
    assert _expected(keld).cache.hits == before


def test_a_job_that_lost_by_its_cache_is_asked_without_it(open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld]) -> None:
    emulator = open_emulator()
    fault(emulator, "rows", "cache_miss", times=2)
    keld = open_keld(clock=emulator.now)
    first = run(keld, emulator, triage(anthropic, system=LONG), tickets(200), partition="2026-11-18")
    second = run(keld, emulator, triage(anthropic, system=LONG), tickets(200), partition="2026-11-19")
    assert (marks(first), marks(second)) == (["1h", "1h"], [None])
    assert second.cost_usd < first.cost_usd


def test_what_a_cache_that_goes_by_itself_did_is_expected_again(keld: Keld, emulator: Emulator) -> None:
    assert _expected(keld, openai).usage.cached_tokens == 0
    first = run(keld, emulator, triage(openai, system=LONG), tickets(200), partition="2026-11-18")
    again = _expected(keld, openai)
    assert again.usage.cached_tokens == pytest.approx(0.8 * first.cached_tokens, rel=0.05)
    assert again.expected_usd < _expected(keld, openai).worst_usd


def test_what_the_standard_lane_read_is_not_expected_of_a_batch(keld: Keld, emulator: Emulator) -> None:
    """With 90 % of hits in real time a batch without any costs more: the two must not be taken for one."""
    run(keld, emulator, triage(openai, system=LONG, lane="standard"), tickets(200), partition="2026-11-18")
    plan = keld.plan(triage(openai, system=LONG), tickets(200))
    cached = {option.lane: option.usage.cached_tokens / option.usage.input_tokens for option in plan.options}
    assert (cached[Lane.BATCH], cached[Lane.STANDARD] > 0.7) == (0, True)


# --- what is told -----------------------------------------------------------------------------------------------------


def test_plan_status_and_end_tell_of_the_cache(keld: Keld, emulator: Emulator) -> None:
    job = triage(anthropic, system=LONG)
    said = _text(plan_view(keld.plan(job, tickets(20))))
    assert "One row goes ahead as a batch of one" in said
    assert "is marked for the prompt cache (1h): 64% of the rows after the first are expected to read it, $" in said
    status = finish(keld, emulator, keld.submit(job, tickets(20)).id)
    told = status.to_json()
    assert (told["cache_hit_rate"], told["batches"][1]["cached_tokens"]) == (status.cache_hit_rate, status.cached_tokens)
    assert Decimal(told["cache_saved_usd"]) == status.cache_saved_usd
    words = f"{status.cache_hit_rate:.0%} of the input from the prompt cache, which saved $"
    assert words in _text(status_view(status))
    assert words in _text(outcome_view(status))
