"""Asked again, or not: what rounds do with answers that break the schema, refusals, errors; over the wire, by the emulator's bill."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from keld import Keld
from keld.emulator import Emulator
from tests.support.lane_purchases import PATIENT, check_books, listen, paid, tell, ways
from tests.support.ticket_job import Peer, fault, outcomes, tickets, triage

pytestmark = pytest.mark.by_turns

GOOD = json.dumps({"category": "bug", "urgent": True})


@pytest.fixture(params=["batch", "standard"])
def lane(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def stubborn(open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld]) -> Callable[..., tuple[Emulator, Keld, list[str]]]:
    """A model that answers some tickets wrongly, so many times; and the requests it has heard about them."""

    def start(wrong: dict[int, int]) -> tuple[Emulator, Keld, list[str]]:
        heard: list[str] = []

        def answer(body: dict[str, Any]) -> str:
            text = str(body["messages"])
            for n, times in wrong.items():
                if f"ticket {n}:" in text:
                    heard.append(text)
                    if sum(f"ticket {n}:" in other for other in heard) <= times:
                        return '{"category": "nonsense", "urgent": true}'
            return GOOD

        emulator = listen(open_emulator(responder=answer))
        return emulator, open_keld(settings=PATIENT, clock=emulator.now), heard

    return start


def test_an_invalid_answer_is_asked_again_with_what_was_wrong(stubborn: Callable[..., Any], peer: Peer, lane: str) -> None:
    """Twice paid, since the first answer was, too; the second request says what the first answer lacked."""
    emulator, keld, heard = stubborn({3: 1})
    status = tell(keld, emulator, triage(peer, lane=lane), tickets())
    assert ways(status) == [(peer.name, lane, "completed", 6), (peer.name, lane, "completed", 1)]
    assert paid(emulator) == Counter({0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1})
    assert outcomes(keld, status) == ["answered"] * 6
    first, second = heard
    assert "category" in second.replace(first[:-10], "")
    check_books(keld, emulator, status, tickets())


def test_an_answer_that_stays_invalid_is_asked_for_so_many_times_and_no_more(stubborn: Callable[..., Any], peer: Peer, lane: str) -> None:
    """`max_attempts` is the user's word; every attempt is paid, and counted."""
    emulator, keld, _ = stubborn({0: 99, 4: 99})
    status = tell(keld, emulator, triage(peer, lane=lane, max_attempts=3), tickets())
    assert paid(emulator) == Counter({0: 3, 1: 1, 2: 1, 3: 1, 4: 3, 5: 1})
    assert outcomes(keld, status) == ["invalid", *["answered"] * 3, "invalid", "answered"]
    check_books(keld, emulator, status, tickets())


@pytest.mark.share(2)
def test_the_ceiling_holds_while_answers_are_asked_for_again(stubborn: Callable[..., Any], peer: Peer, lane: str) -> None:
    """A complaint makes a request longer; what does not fit is not asked, and told."""
    emulator, keld, _ = stubborn(dict.fromkeys(range(6), 99))
    job = triage(peer, lane=lane, max_output_tokens=16)
    ceiling = next(option.worst_usd for option in keld.plan(job, tickets()).options if option.lane == lane)
    status = tell(keld, emulator, triage(peer, lane=lane, max_output_tokens=16, max_attempts=9, ceiling_usd=ceiling), tickets())
    assert set(outcomes(keld, status)) <= {"invalid", "over_ceiling"}
    assert status.cost_usd <= ceiling
    check_books(keld, emulator, status, tickets())


@pytest.mark.share(3)
@pytest.mark.parametrize(("do", "outcome", "price"), [("refusal", "refused", 1), ("length", "invalid", 1), ("error", "errored", 0)])
def test_what_no_second_request_would_change_is_not_asked_again(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], peer: Peer, lane: str, do: str, outcome: str, price: int
) -> None:
    """A refusal, an answer that is cut at its limit, a request that the provider calls wrong."""
    emulator = listen(open_emulator())
    keld = open_keld(settings=PATIENT, clock=emulator.now)
    more = {"status": 400} if do == "error" else {}
    fault(emulator, "rows", do, **({"count": 2} if lane == "batch" else {"times": 2}), **more)
    status = tell(keld, emulator, triage(peer, lane=lane), tickets())
    assert ways(status) == [(peer.name, lane, "completed", 6)]
    assert Counter(outcomes(keld, status)) == {"answered": 4, outcome: 2}
    assert paid(emulator).total() == 4 + 2 * price
    check_books(keld, emulator, status, tickets())
