"""Ticket job: the rows and the job that most tests run, the providers they run it at, and the checks of what came out.

The checks use the emulator's side (its bill and its log of calls), never Keld's own numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa
import sqlalchemy as sa
from pydantic import BaseModel

from keld import Job, Keld, Status
from keld.emulator import BillEntry, Call, Emulator
from keld.outcome import Outcome
from keld.price import Lane, Rates
from keld.pricing import rates
from keld.providers.account import ACCOUNTS
from keld.providers.provider import connect

SYSTEM = "You triage support tickets. CANARY-SYSTEM"


class Label(BaseModel):
    """No numbers between bounds: Anthropic takes none, and the emulator then answers outside of them."""

    category: Literal["billing", "bug", "account", "other"]
    urgent: bool


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A provider, as a test needs it."""

    name: str
    model: str
    creates: str  # the path of its one dangerous call
    model_in_line: bool = True  # else the create, or its path, names the model
    says_refused: bool = True  # else a refusal is an answer like any other
    pages: bool = True  # the list of batches has pages; else it is one reply
    names_unreached: bool = True  # else a row that was not reached before the end is in no result file
    newest_first: bool = True  # else its list has no order
    keeps_partial: bool = True  # else a batch that was cancelled, or expired, gives nothing back
    says_cancelling: bool = True  # else a cancelled batch is in progress until it has ended
    in_bucket: bool = False  # its results are objects in a bucket of the user's own, read by obstore
    prices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)  # those of the job, where no list has its model

    @property
    def models(self) -> str:
        return f"{self.name}:{self.model}"


openai = Peer(name="openai", model="gpt-5-mini", creates="/v1/batches")
anthropic = Peer(name="anthropic", model="claude-haiku-4-5", creates="/v1/messages/batches")
groq = Peer(name="groq", model="openai/gpt-oss-20b", creates="/groq/openai/v1/batches", pages=False)
gemini = Peer(
    name="gemini",
    model="gemini-2.5-flash",
    creates="/gemini/v1beta/models/gemini-2.5-flash:batchGenerateContent",
    model_in_line=False,
    newest_first=False,
    keeps_partial=False,
    says_cancelling=False,
)
mistral = Peer(
    name="mistral",
    model="mistral-small-latest",
    creates="/mistral/v1/batch/jobs",
    model_in_line=False,
    says_refused=False,
    names_unreached=False,
)
azure = Peer(name="azure", model="gpt-5-mini", creates="/azure/openai/v1/batches")
bedrock = Peer(
    name="bedrock",
    model="openai.gpt-oss-120b-1:0",  # by Converse
    creates="/bedrock/model-invocation-job",
    model_in_line=False,
    names_unreached=False,
    in_bucket=True,
)
bedrock_claude = replace(bedrock, model="us.anthropic.claude-haiku-4-5-20251001-v1:0")  # by InvokeModel
vertex = Peer(
    name="vertex",
    model="gemini-2.5-flash",
    creates="/vertex/v1/projects/keld-emulator/locations/global/batchPredictionJobs",
    model_in_line=False,
    names_unreached=False,
    in_bucket=True,
)
vertex_claude = replace(vertex, model="claude-haiku-4-5@20251001")
self_hosted = Peer(
    name="self_hosted",
    model="gpt-oss-20b",
    creates="",
    prices={"self_hosted:gpt-oss-20b": {"input": 0, "output": 0}},
)
# Hosts that copied OpenAI's API, without batches that Keld uses.
HOSTS = {
    name: Peer(name=name, model=model, creates="")
    for name, model in (
        ("together", "openai/gpt-oss-120b"),
        ("openrouter", "openai/gpt-5-mini"),
        ("xai", "grok-3-mini"),
        ("fireworks", "accounts/fireworks/models/gpt-oss-20b"),
    )
}
HOSTS["deepinfra"] = Peer(  # has no price list here
    name="deepinfra",
    model="openai/gpt-oss-20b",
    creates="",
    prices={"deepinfra:openai/gpt-oss-20b": {"input": "0.1", "output": "0.2"}},
)
PEERS = {peer.name: peer for peer in (openai, anthropic, gemini, mistral, azure, bedrock, vertex)}  # one for each kind with batches


# --- what is asked ----------------------------------------------------------------------------------------------------


def tickets(count: int = 6, *, changed: Iterable[int] = ()) -> pa.Table:
    """`count` rows, each with a prompt of its own; those at `changed` say something else."""
    bodies = [f"CANARY-ROW ticket {n}: the {'printer' if n in set(changed) else 'invoice'} is wrong" for n in range(count)]
    return pa.table({"ticket_id": [f"t-{n}" for n in range(count)], "body": bodies})


def triage(peer: Peer, **terms: Any) -> Job:
    """The job of most tests; `terms` as of `Job`."""
    asked: dict[str, Any] = {"name": "triage", "key": "ticket_id", "system": SYSTEM, "prompt": "Classify:\n\n{body}", "output_type": Label}
    priced = {"prices": peer.prices} if peer.prices else {}
    return Job(**{**asked, "models": peer.models, "max_output_tokens": 256, **priced, **terms})


# --- how time passes --------------------------------------------------------------------------------------------------


def finish(keld: Keld, emulator: Emulator, run_id: str, *, most: int = 80) -> Status:
    """The job run when it is over: advanced whenever it wants to be looked at, the clock turned in between.

    Raises:
        AssertionError: after `most` steps it is not over.
    """
    for _ in range(most):
        status = keld.advance(run_id)
        if status.over:
            return status
        emulator.advance(max((status.next_check_at or emulator.now()) - emulator.now(), timedelta(seconds=1)))
    raise AssertionError(f"{status!r} does not come to its end: {status.batches} {status.problem}")


def run(keld: Keld, emulator: Emulator, job: Job, table: Any = None, *, most: int = 80, **where: Any) -> Status:
    """Submits and finishes; `where` as of `Keld.submit`."""
    return finish(keld, emulator, keld.submit(job, tickets() if table is None else table, **where).id, most=most)


def fault(emulator: Emulator, at: str, do: str, **more: Any) -> None:
    """Plans one fault (see `keld.emulator.fault`)."""
    emulator.faults({"rules": [{"at": at, "do": do, **more}]})


# --- what must be true ------------------------------------------------------------------------------------------------


def outcomes(keld: Keld, status: Status) -> list[str]:
    """Every row's outcome, in the order of the table."""
    return keld.read(status.id).read_all().column("keld_outcome").to_pylist()


def creates(emulator: Emulator, peer: Peer) -> list[Call]:
    """The calls that may cost money."""
    return [call for call in emulator.requests() if call.method == "POST" and call.path == peer.creates]


def purchases(emulator: Emulator) -> Counter[int]:
    """How often each row was paid, by its position in the table: what follows the ten letters of a custom_id, with a hyphen or without.

    The rows of a packed request are taken for neighbours, as in a shard that asks every row.
    """
    firsts = ((int((entry.custom_id or "")[10:].removeprefix("-").partition("x")[0]), entry.rows) for entry in emulator.bill())
    return Counter(position for first, rows in firsts for position in range(first, first + rows))


def billed_usd(emulator: Emulator, at: datetime, prices: Mapping[str, Mapping[str, Any]] | None = None) -> Decimal:
    """What the provider will charge, by its own counts of tokens and the price list of the day.

    Args:
        prices: the job's own.
    """
    return sum((_entry_usd(entry, at, prices) for entry in emulator.bill()), Decimal(0))


def _entry_usd(entry: BillEntry, at: datetime, prices: Mapping[str, Mapping[str, Any]] | None) -> Decimal:
    known = (*(peer.model for peer in PEERS.values()), "text-embedding-3-small", "gpt-5")
    model = next((model for model in known if entry.model.startswith(model)), entry.model)
    found = list_rates(entry.provider, model, Lane(entry.lane), at, prices)
    assert found is not None
    return entry_usd(entry, found)


def list_rates(
    kind: str, model: str, lane: Lane, at: datetime, own: Mapping[str, Mapping[str, Any]] | None = None, account: str | None = None
) -> Rates | None:
    """What a kind's model costs at the account that the environment variables describe: its region, its price list.

    Args:
        own: a job's `prices`, under the name `account`.
    """
    known = ACCOUNTS.get(kind)
    if known is None:  # a kind of a test's own
        return rates(kind, model, lane, at, own, account=account)
    return connect(account or kind, replace(known, prices=kind)).rates(model, lane, at, own)


def entry_usd(entry: BillEntry, found: Rates) -> Decimal:
    """What one entry costs at these rates."""
    # Anthropic and Bedrock leave the cached tokens out, all others count them in.
    fresh = entry.input_tokens - (entry.cached_tokens + entry.cache_write_tokens if entry.provider not in ("anthropic", "bedrock") else 0)
    request = fresh + entry.cached_tokens + entry.cache_write_tokens
    rate = [bracket for bracket in found.brackets if not bracket.above or request > bracket.above][-1]
    write = entry.cache_write_tokens - entry.cache_write_1h_tokens
    per_mtok = fresh * rate.input + entry.cached_tokens * rate.cached + write * rate.cache_write
    per_mtok += entry.cache_write_1h_tokens * rate.cache_write_1h + entry.output_tokens * rate.output
    return per_mtok / 10**6


def check_promise(keld: Keld, emulator: Emulator, status: Status, table: pa.Table, *, paid: Mapping[int, int] | int = 1) -> None:
    """No row lost, no row paid twice, every pico-dollar accounted for.

    Args:
        paid: how often each row was bought, where it is not once.
    """
    enriched = keld.read(status.id).read_all()
    assert enriched.select(table.schema.names).equals(table), "every input row, once, in order"
    assert set(enriched.column("keld_outcome").to_pylist()) <= {outcome.value for outcome in Outcome}
    expected = dict.fromkeys(range(table.num_rows), paid) if isinstance(paid, int) else dict(paid)
    assert purchases(emulator) == Counter(expected)
    assert not [
        call
        for call in emulator.requests()
        if call.method == "POST" and call.path in {peer.creates for peer in PEERS.values()} and call.retry_count
    ]
    assert status.cost_usd == billed_usd(emulator, status.created_at)
    assert sum(enriched.column("keld_cost_usd").to_pylist()) == status.cost_usd
    assert status.reserved_usd == 0, "nothing is in flight any more"


def ledger_dump(url: str) -> str:
    """Everything a ledger holds, as text."""
    parsed = sa.make_url(url)
    engine = sa.create_engine(parsed.set(drivername="postgresql+psycopg") if parsed.get_backend_name() == "postgresql" else parsed)
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.connect() as db:
        found = [str(tuple(row)) for table in tables.sorted_tables for row in db.execute(sa.select(table))]
    engine.dispose()
    return "\n".join(found)
