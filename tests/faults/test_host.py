"""Hosts of the providers' shape that keep to it only roughly: gateways, self-hosted servers, clones; none of them our emulator."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keld import Keld, Status
from tests.faults.host import Host, long_ago, serving
from tests.support.ticket_job import Peer, outcomes, tickets, triage
from tests.support.ticket_job import anthropic as anthropic_peer
from tests.support.ticket_job import openai as openai_peer


class Desk:
    """An environment whose provider is one such host."""

    def __init__(self, keld: Keld, host: Host, peer: Peer, clock: Any) -> None:
        self.keld, self.host, self.peer, self.clock = keld, host, peer, clock

    def run(self, most: int = 120, **terms: Any) -> Status:
        status = self.keld.submit(triage(self.peer, **{"output_type": str, **terms}), tickets())
        for _ in range(most):
            status = self.keld.advance(status.id)
            if status.over:
                return status
            self.clock.advance(max((status.next_check_at or self.clock()) - self.clock(), timedelta(seconds=1)))
        raise AssertionError(f"{status!r} does not come to its end: {status.batches} {status.problem} {self.host.calls[-9:]}")

    def paid(self) -> Counter[int]:
        return Counter({int(name.rpartition("-")[2]): count for name, count in self.host.paid.items() if not name.startswith("theirs")})


@pytest.fixture
def open_desk(tmp_path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    with ExitStack() as stack:

        def start(peer: Peer, *quirks: str) -> Desk:
            host = stack.enter_context(serving(peer.name, Host(*quirks, clock=clock)))
            monkeypatch.setenv(f"{peer.name.upper()}_BASE_URL", host.url + ("/v1" if peer.name == "openai" else ""))
            monkeypatch.setenv(f"{peer.name.upper()}_API_KEY", "sk-any")
            return Desk(stack.enter_context(Keld(home=tmp_path / "home", clock=clock)), host, peer, clock)

        yield start


def some(cases: Iterable[tuple[Any, tuple[str, ...]]]) -> list[Any]:
    """All of them; every third in the fast suite."""
    return [
        pytest.param(one, quirks, id="-".join([str(getattr(one, "name", one)), *quirks]), marks=() if n % 3 == 1 else pytest.mark.slow)
        for n, (one, quirks) in enumerate(cases)
    ]


EITHER = [
    (), ("bare",), ("nulls",), ("extra",), ("millis",), ("iso",), ("no_time",), ("accepted",), ("chunked",), ("late_output",), ("odd_ids",),
    ("text_errors",), ("html_errors",), ("empty_errors",), ("list_errors",), ("ok_errors",), ("odd_lines",), ("null_list",),
    ("bare", "chunked", "accepted", "no_has_more"), ("nulls", "millis", "late_output"), ("numbers",), ("grows",), ("grows", "bare"), ("shuffles",),
    ("shuffles", "bare"),
]  # fmt: skip


@pytest.mark.share(3)
@pytest.mark.parametrize(("peer", "quirks"), some((peer, quirks) for peer in (openai_peer, anthropic_peer) for quirks in EITHER))
def test_an_odd_host_costs_no_row_and_no_second_purchase(open_desk: Callable[..., Desk], peer: Peer, quirks: tuple[str, ...]) -> None:
    """What a host of the shape leaves out, adds or spells its own way is no reason to lose or to pay."""
    desk = open_desk(peer, *quirks)
    status = desk.run()
    assert outcomes(desk.keld, status) == ["answered"] * 6
    assert (desk.host.creates, desk.paid()) == (1, Counter(dict.fromkeys(range(6), 1)))


@pytest.mark.parametrize("quirk", ["bare", "nulls"])
def test_answers_without_a_count_of_tokens_are_not_free_and_stay_reserved(open_desk: Callable[..., Desk], peer: Peer, quirk: str) -> None:
    """As LiteLLM's batches once did (github.com/BerriAI/litellm/issues/35363): spend was $0.00 without a word, and no budget held."""
    desk = open_desk(peer, quirk)
    status = desk.run(ceiling_usd=1)
    total = desk.keld.spend().total
    assert (status.answered, status.cost_usd, total.unknown_rows) == (6, 0, 6)
    assert status.reserved_usd == total.unknown_usd > 0
    assert "6 answers came without their token counts" in str(status.batches[0].error)


LISTS = [
    (), ("no_has_more",), ("endless_list",), ("oldest_first",), ("millis",), ("iso",), ("no_time",), ("no_metadata",), ("odd_ids",), ("ok_errors",),
    ("text_errors",), ("null_list",), ("no_metadata", "oldest_first"), ("no_metadata", "no_has_more"),
]  # fmt: skip


@pytest.mark.share(2)
@pytest.mark.parametrize(("how", "quirks"), some((how, quirks) for how in ("loses_create", "odd_create") for quirks in LISTS))
def test_a_lost_create_is_found_in_an_odd_list(open_desk: Callable[..., Desk], quirks: tuple[str, ...], how: str) -> None:
    """Not found, it would be bought again; and a gateway may keep no metadata to find it by."""
    desk = open_desk(openai_peer, how, *quirks)
    long_ago(desk.host, 5, rows=6)
    status = desk.run()
    assert outcomes(desk.keld, status) == ["answered"] * 6
    assert desk.paid() == Counter(dict.fromkeys(range(6), 1))


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "quirks", [(), ("no_has_more",), ("endless_list",), ("millis",), ("no_time",), ("odd_ids",), ("ok_errors",)], ids="-".join
)
def test_a_lost_create_is_found_in_an_odd_list_without_marks(open_desk: Callable[..., Desk], quirks: tuple[str, ...]) -> None:
    """At Anthropic's shape only size, age and the results tell."""
    desk = open_desk(anthropic_peer, "loses_create", *quirks)
    long_ago(desk.host, 5, rows=6)
    status = desk.run()
    assert outcomes(desk.keld, status) == ["answered"] * 6
    assert desk.paid() == Counter(dict.fromkeys(range(6), 1))


def test_errors_inline_in_the_output_are_outcomes_of_their_rows(open_desk: Callable[..., Desk], peer: Peer) -> None:
    """vLLM writes one file; a worker that died is asked again, a bad prompt is not."""
    desk = open_desk(peer, "inline")
    status = desk.run(max_attempts=1)
    assert outcomes(desk.keld, status) == ["errored"] * 2 + ["answered"] * 4


@pytest.mark.parametrize("quirk", ["no_delete", "no_delete_at_all"])
def test_a_host_that_removes_no_file_gives_no_fence_and_is_told_so(open_desk: Callable[..., Desk], quirk: str) -> None:
    """Nothing proves that the create will not land: it is not sent again, the job run says why, and it comes to an end."""
    desk = open_desk(openai_peer, "loses_creates", quirk)
    status = desk.keld.submit(triage(openai_peer, output_type=str), tickets())
    for _ in range(6):
        status = desk.keld.advance(status.id)
        desk.clock.advance(600)
    assert "the removal of an input file" in (status.problem or "")
    for _ in range(9):
        status = desk.keld.advance(status.id)
        desk.clock.advance(6 * 3_600)
    assert status.over
    assert outcomes(desk.keld, status) == ["quarantined"] * 6
    assert (desk.host.creates, status.reserved_usd > 0) == (1, True)


def test_a_lost_create_at_a_host_without_a_list_comes_to_an_end(open_desk: Callable[..., Desk], peer: Peer) -> None:
    """Nothing can be learned of it: two days later its rows are quarantined, and it is never sent again; where a list is needed first, never at all."""
    desk = open_desk(peer, "loses_create", "list_404")
    status = desk.keld.submit(triage(peer, output_type=str), tickets())
    for _ in range(60):
        status = desk.keld.advance(status.id)
        desk.clock.advance(3_600)
    sent = peer.name == "openai"
    assert outcomes(desk.keld, status) == ["quarantined" if sent else "unasked"] * 6
    assert (desk.host.creates, status.reserved_usd > 0) == (int(sent), sent)
