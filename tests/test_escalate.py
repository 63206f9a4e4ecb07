"""Escalation on the wire: what waits too long moves on in time, and nothing is paid twice."""

from datetime import timedelta

from scene import anthropic, fault, finish, openai, outcomes, tickets, triage

from keld import Keld, Status
from keld.emulator import Emulator


def test_a_batch_that_stalls_is_rescued_in_time(keld: Keld, emulator: Emulator) -> None:
    """Anthropic sells no flex: standard is what stands behind its batches."""
    fault(emulator, "life", "stuck")
    status = keld.submit(triage(anthropic, deadline=emulator.now() + timedelta(hours=3)), tickets())
    status = finish(keld, emulator, status.id, most=400)
    assert status.deadline_met
    assert [shard.lane for shard in keld.ledger.shards(status.id)] == ["batch", "standard"]
    _once(keld, emulator, status)


def test_a_stalled_batch_goes_to_flex_where_that_costs_no_more(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "life", "stuck")
    status = keld.submit(triage(openai, deadline=emulator.now() + timedelta(hours=3)), tickets())
    status = finish(keld, emulator, status.id, most=400)
    assert status.deadline_met
    assert [shard.lane for shard in keld.ledger.shards(status.id)] == ["batch", "flex"]
    _once(keld, emulator, status)


def test_flex_that_was_not_reached_in_time_moves_on_to_standard(keld: Keld, emulator: Emulator) -> None:
    """Nobody advanced the job run until the last moment for standard."""
    status = keld.submit(triage(openai, deadline=emulator.now() + timedelta(minutes=40)), tickets())
    assert [shard.lane for shard in keld.ledger.shards(status.id)] == ["flex"]
    emulator.advance(timedelta(minutes=36))
    status = finish(keld, emulator, status.id)
    assert status.deadline_met
    assert [shard.lane for shard in keld.ledger.shards(status.id)] == ["flex", "standard"]
    _once(keld, emulator, status)


def _once(keld: Keld, emulator: Emulator, status: Status) -> None:
    """Every row is answered, and on the bill once."""
    assert outcomes(keld, status) == ["answered"] * 6
    assert len(emulator.bill()) == 6
