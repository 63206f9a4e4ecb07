"""The state machine: its table, whole, and what follows from it."""

import pytest

from keld.state import AT_PROVIDER, TERMINAL, TRANSITIONS, Event, IllegalTransition, State, after


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_only_what_the_table_allows_can_happen(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert after(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"{event} cannot happen to a shard that is {state}"):
            after(state, event)


def test_every_state_is_reached_from_planned() -> None:
    reached = {State.PLANNED}
    while more := {became for (was, _), became in TRANSITIONS.items() if was in reached} - reached:
        reached |= more
    assert reached == set(State)


def test_every_state_leads_to_a_terminal_one() -> None:
    """No shard can be stuck for ever."""
    ends = set(TERMINAL)
    while more := {was for (was, _), became in TRANSITIONS.items() if became in ends} - ends:
        ends |= more
    assert ends == set(State)


def test_every_event_can_happen_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_nothing_happens_to_what_is_over_but_that_the_lost_turns_up() -> None:
    turn_up = (State.QUARANTINED, State.DROPPED, State.REJECTED)
    assert {pair for pair in TRANSITIONS if pair[0] in TERMINAL} == {(state, Event.ADOPTED) for state in turn_up}


def test_a_create_is_only_sent_for_a_staged_shard() -> None:
    assert {was for was, event in TRANSITIONS if event is Event.SENDING} == {State.STAGED}


def test_a_create_that_may_have_left_leads_to_a_look_and_nowhere_else() -> None:
    """The one way to pay twice is to send again what may have been created, whatever was said of it."""
    after_sending = {event: became for (was, event), became in TRANSITIONS.items() if was is State.SUBMITTING}
    assert after_sending.pop(Event.UNSENT) is State.STAGED, "nothing left the machine"
    assert after_sending.pop(Event.CREATED) is State.IN_PROGRESS
    assert after_sending.pop(Event.LOST_TRACK) is State.QUARANTINED, "given up, and never sent again by itself"
    assert set(after_sending.values()) == {State.UNKNOWN}
    back = {event for (was, event), became in TRANSITIONS.items() if was is State.UNKNOWN and became is State.STAGED}
    assert back == {Event.ABSENT}


def test_what_is_at_the_provider_is_only_left_by_its_word_or_for_want_of_one() -> None:
    leaving = {event for (was, event), became in TRANSITIONS.items() if was in AT_PROVIDER and became not in AT_PROVIDER}
    assert leaving == {Event.ENDED, Event.DEFERRED, Event.REJECTED, Event.LOST_TRACK, Event.HEDGED}


def test_nothing_that_was_sent_is_dropped() -> None:
    assert {was for was, event in TRANSITIONS if event is Event.DROPPED} == {State.PLANNED, State.STAGED, State.DEFERRED}
