"""Asked once: rows with the same prompt, rows that were answered before; over the wire, by the emulator's bill."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from keld import Keld
from keld.emulator import Emulator
from tests.support.lane_purchases import HOUR, PATIENT, bought, check_books, fast, lanes, listen, paid, tell
from tests.support.ticket_job import Peer, fault, outcomes, tickets, triage

pytestmark = pytest.mark.by_turns


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator]) -> Emulator:
    return listen(open_emulator(latency_s=3_600))


@pytest.fixture
def keld(open_keld: Callable[..., Keld]) -> Keld:
    return open_keld(settings=PATIENT)


@pytest.fixture(params=["batch", "standard"])
def lane(request: pytest.FixtureRequest) -> str:
    return request.param


def repeated(count: int, kinds: int) -> pa.Table:
    """`count` rows with `kinds` prompts among them, each in turn."""
    bodies = tickets(kinds).column("body").to_pylist()
    return pa.table({"ticket_id": [f"t-{n}" for n in range(count)], "body": [bodies[n % kinds] for n in range(count)]})


def answers(keld: Keld, status: Any) -> list[str]:
    return keld.read(status.id).read_all().column("category").to_pylist()


def test_the_same_prompt_is_asked_once_and_its_answer_given_to_all(keld: Keld, emulator: Emulator, peer: Peer, lane: str) -> None:
    table = repeated(20, 3)
    status = tell(keld, emulator, triage(peer, lane=lane), table)
    assert bought(emulator) == {(n, lane): 1 for n in range(3)}
    assert outcomes(keld, status) == ["answered"] * 20
    assert answers(keld, status) == [answers(keld, status)[n % 3] for n in range(20)]
    check_books(keld, emulator, status, table)


def test_what_becomes_of_a_row_becomes_of_its_twins(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Refused once, refused for all; asked again once, for all."""
    fault(emulator, "rows", "refusal", count=1)
    table = repeated(20, 4)
    status = tell(keld, emulator, triage(peer), table)
    assert Counter(outcomes(keld, status)) == {"refused": 5, "answered": 15}
    assert set(paid(emulator).values()) == {1}
    check_books(keld, emulator, status, table)


def test_twins_are_rescued_once(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A batch that stalls half-way: the other half is asked one by one, and fanned out."""
    fault(emulator, "life", "stuck", done=0.5)
    table = repeated(60, 20)
    status = tell(keld, emulator, triage(peer, deadline=4 * HOUR), table)
    assert lanes(emulator) == {"batch": 10, fast(peer): 10}
    assert set(paid(emulator).values()) == {1}
    assert outcomes(keld, status) == ["answered"] * 60
    check_books(keld, emulator, status, table)


@pytest.mark.share(2)
def test_three_changed_rows_of_a_hundred_pay_for_three(keld: Keld, emulator: Emulator, peer: Peer, lane: str) -> None:
    tell(keld, emulator, triage(peer, lane=lane), tickets(100))
    status = tell(keld, emulator, triage(peer, lane=lane), tickets(100, changed=[7, 50, 93]))
    assert (status.reused, outcomes(keld, status)) == (97, ["answered"] * 100)
    assert paid(emulator) == Counter({n: 2 if n in (7, 50, 93) else 1 for n in range(100)})


@pytest.mark.wide
def test_rows_that_were_rescued_are_not_asked_again_either(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """An answer is an answer, from whichever lane."""
    fault(emulator, "life", "stuck", done=0.5)
    tell(keld, emulator, triage(peer, deadline=4 * HOUR), tickets(20))
    status = tell(keld, emulator, triage(peer, deadline=4 * HOUR), tickets(20, changed=[3]))
    assert (status.reused, paid(emulator).total()) == (19, 21)


def test_another_job_that_asks_the_same_pays_nothing_where_that_is_wished(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """`reuse="namespace"`; and another one, which did not wish it, pays for its own."""
    tell(keld, emulator, triage(peer), tickets(20))
    same = tell(keld, emulator, triage(peer, name="other", reuse="namespace"), tickets(30))
    assert (same.reused, outcomes(keld, same)) == (20, ["answered"] * 30)
    assert paid(emulator) == Counter(range(30))
    tell(keld, emulator, triage(peer, name="third"), tickets(20))
    assert paid(emulator).total() == 50


def test_never_pays_for_every_row(keld: Keld, emulator: Emulator, peer: Peer, lane: str) -> None:
    """Samples of the same prompt are asked one by one, and all over again when the table has changed."""
    tell(keld, emulator, triage(peer, lane=lane, reuse="never"), repeated(6, 2))
    assert paid(emulator) == {0: 3, 1: 3}
    status = tell(keld, emulator, triage(peer, lane=lane, reuse="never"), repeated(8, 2))
    assert paid(emulator) == {0: 7, 1: 7}
    assert outcomes(keld, status) == ["answered"] * 8
