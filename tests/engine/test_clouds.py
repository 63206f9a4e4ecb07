"""Several kinds in one job, over the wire: the same model at two vendors is a backup for itself, and accounts of one kind are hosts of their own."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from keld import Account, BedrockAccount, Keld, VertexAccount
from keld.emulator import Emulator
from tests.support.lane_purchases import HOUR, PATIENT, listen, paid, pass_time, sellers, tell
from tests.support.realtime_rows import turning
from tests.support.ticket_job import (
    anthropic,
    azure,
    bedrock_claude,
    creates,
    finish,
    gemini,
    outcomes,
    tickets,
    triage,
    vertex,
    vertex_claude,
)

pytestmark = pytest.mark.books_open("several vendors bill one job run; the purchases are counted row by row")

CLAUDE = [bedrock_claude.models, anthropic.models, vertex_claude.models]
PRICES = {"input": 1, "output": 2}


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Batches take an hour; a wait of the fast lanes turns the clock, and so does each reply."""
    emulator = listen(open_emulator(latency_s=3_600))
    pass_time(emulator, monkeypatch, rows_per_s=40.0)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr("keld.realtime.run.Time", lambda: turning(emulator))
    monkeypatch.setattr("keld.http._PAUSES_S", (0, 0))  # harmless calls are tried again at once
    return emulator


def job(models: list[str], **terms: Any) -> Any:
    """Priced so that the first of the models is the cheapest."""
    prices = {model: {"input": 1 + n, "output": 2 + n} for n, model in enumerate(models)}
    return triage(anthropic, models=models, prices=prices, **terms)


def fault(emulator: Emulator, at: str, do: str, provider: str, **more: Any) -> None:
    emulator.faults({"rules": [{"at": at, "do": do, "match": {"provider": provider}, **more}]})


@pytest.mark.wide
def test_a_stalled_batch_of_one_cloud_is_rescued_at_another(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """An incident has all of the first: its unpaid rows, and only these, go to the same model elsewhere, in time."""
    fault(emulator, "life", "stuck", "bedrock", done=0.25)
    fault(emulator, "realtime", "status", "bedrock", status=503, retry_after=600, times=None)
    keld, table = open_keld(settings=PATIENT), tickets(120)
    status = tell(keld, emulator, job(CLAUDE, deadline=4 * HOUR, probability=0.5), table)
    assert sellers(emulator) == {("bedrock", "batch"): 30, ("anthropic", "standard"): 90}
    assert set(paid(emulator).values()) == {1}
    assert (outcomes(keld, status), status.deadline_met) == (["answered"] * 120, True)
    assert status.reserved_usd == 0


def test_the_few_rows_that_one_cloud_failed_are_asked_where_any_number_is_taken(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """Bedrock takes 100 or more in a batch: the five that failed go to a batch at Vertex, since only batches may be used."""
    fault(emulator, "rows", "error", "bedrock", status=500, count=5, times=1)
    keld, table = open_keld(settings=PATIENT), tickets(110)
    status = tell(keld, emulator, job([bedrock_claude.models, vertex_claude.models], lane="batch"), table)
    assert sellers(emulator) == {("bedrock", "batch"): 105, ("vertex", "batch"): 5}
    assert outcomes(keld, status) == ["answered"] * 110
    assert set(paid(emulator).values()) == {1}


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("accounts", "model"),
    [
        ({"us": BedrockAccount(region="us-east-1"), "eu": BedrockAccount(region="eu-west-1")}, bedrock_claude.model),
        ({"us": VertexAccount(location="us-central1"), "eu": VertexAccount(location="europe-west4")}, vertex.model),
    ],
    ids=["bedrock", "vertex"],
)
def test_two_accounts_of_one_kind_are_two_hosts(
    open_keld: Callable[..., Keld], emulator: Emulator, accounts: dict[str, Any], model: str
) -> None:
    """They share an address here, and a create of each loses its reply: each finds its own, and neither sweeps what is the other's."""
    keld = open_keld(settings=PATIENT, accounts=accounts)
    hosts = {keld.provider(name).host for name in accounts}
    assert len(hosts) == 2
    emulator.faults({"rules": [{"at": "create", "do": "drop_after", "times": 2}]})
    started = [keld.submit(job([f"{name}:{model}"], lane="batch", name=name), tickets(100)) for name in accounts]
    ended = [finish(keld, emulator, status.id) for status in started]
    assert [outcomes(keld, status) for status in ended] == [["answered"] * 100] * 2
    assert {batch.host for status in ended for batch in status.batches} == hosts
    assert set(Counter(paid(emulator)).values()) == {2}, "each job bought each ticket once"
    assert [keld.reconcile([name]) for name in accounts] == [[], []]
    assert len(creates(emulator, vertex)) == 0


@pytest.mark.share(2)
@pytest.mark.parametrize(("kind", "model"), [("gemini", gemini.model), ("azure", azure.model)])
def test_two_accounts_at_one_address_keep_their_batches_apart(
    open_keld: Callable[..., Keld], emulator: Emulator, kind: str, model: str
) -> None:
    """As two keys of Gemini, or two resources behind one gateway: the ledger tells them apart by their names, and a key may be changed."""
    keld = open_keld(settings=PATIENT, accounts={"one": Account.of(kind), "two": Account.of(kind)})
    emulator.faults({"rules": [{"at": "create", "do": "drop_after", "times": 2}]})
    started = [keld.submit(job([f"{name}:{model}"], lane="batch", name=name), tickets(5)) for name in ("one", "two")]
    ended = [finish(keld, emulator, status.id) for status in started]
    assert [outcomes(keld, status) for status in ended] == [["answered"] * 5] * 2
    assert [{batch.provider for batch in status.batches} for status in ended] == [{"one"}, {"two"}]
    assert set(paid(emulator).values()) == {2}, "each job bought each ticket once"
    assert [keld.reconcile([name]) for name in ("one", "two")] == [[], []]
