"""Matrix: every kind, every call, every fault, played and printed; and what a lost, late or doubled create buys at each kind.

`make matrix` runs it, `make matrix KINDS="bedrock gemini"` for some kinds.  The cells are cases of the fault table, all of them, the slow ones
too; `test_table` asserts the same.  It ends with status 1 if a cell does not hold.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from keld import Keld, Settings
from keld.emulator import Emulator
from tests.faults.case import ANY_CALL, CALLS, CREATE, KINDS, Case
from tests.faults.play import patched, play
from tests.support.ticket_job import PEERS, billed_usd, creates, purchases

# The dangerous call's own faults, by what the provider has made of it.
BUYING = {
    "done, reply lost": "done, and the connection closed without a reply",
    "done, a proxy answers 502": "done, and a proxy answers 502",
    "not done, reply lost": "not done, and the connection closed",
    "lands 200 s later": "it lands 200 s later",
    "hidden from the list for 70 s": "done, and missing from the list for 70 s",
    "hidden until the last look is over": "done, and missing from the list until the last look is over",
    "sent twice by a gateway": "a gateway ",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one case came to at one kind."""

    case: Case
    bought: int
    most: int
    creates: int
    wrong: str = ""  # what did not hold; "" if all did

    def __str__(self) -> str:
        said = f"{self.bought} paid, {self.creates} create{'s' * (self.creates != 1)}"
        return f"[red]FAILED[/]: {self.wrong}" if self.wrong else said + (f", a row {self.most} times" if self.most > 1 else "")


def cell(case: Case, kind: str) -> Cell:
    """One case at one kind, played to its end against an emulator and a ledger of its own."""
    case, peer = case.at_kind(kind), PEERS[kind]
    with _opened(case) as (emulator, keld):
        try:
            status = play(case, peer, keld, emulator)
        except AssertionError as endless:
            return Cell(case=case, bought=0, most=0, creates=0, wrong=str(endless)[:80])
        bill, billed, sent = purchases(emulator), billed_usd(emulator, status.created_at), len(creates(emulator, peer))
        unmet = [rule for rule in emulator.fault_rules() if not rule["hits"]]
    found = Cell(case=case, bought=bill.total(), most=max(bill.values(), default=0), creates=sent)
    rows = (status.answered, status.failed, status.quarantined)
    wrong = [
        *([f"rows {rows}"] if rows != (case.answered, case.failed, case.quarantined) else []),
        *([str(found)] if (found.bought, found.creates) != (case.bought, case.creates) or found.most > case.most else []),
        *(["the books disagree"] if not status.cost_usd <= billed <= status.cost_usd + status.reserved_usd else []),
        *(["the fault was never met"] if unmet else []),
    ]
    return Cell(case=case, bought=found.bought, most=found.most, creates=sent, wrong=", ".join(wrong))


@contextmanager
def _opened(case: Case) -> Iterator[tuple[Emulator, Keld]]:
    settings = Settings(**{"poll_least": Settings().poll_least * 3, **case.settings})
    with (
        tempfile.TemporaryDirectory() as folder,
        Emulator(**{"frozen": True, "latency_s": 60, **case.emulator}) as emulator,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in emulator.env().items():
            patch.setenv(name, value)
        patched(patch)
        keld = Keld(home=Path(folder) / "home", ledger_url=f"sqlite:///{folder}/ledger.db", clock=emulator.now, settings=settings)
        with closing(keld):
            yield emulator, keld


def matrix(kind: str) -> tuple[Table, int]:
    """Call x fault at one kind, and how many cells do not hold."""
    table = Table("fault", *CALLS, title=f"{kind}: {PEERS[kind].model}", title_justify="left", box=None, header_style="bold")
    failed = 0
    for fault in dict.fromkeys(case.fault for case in ANY_CALL):
        row = []
        for call in CALLS:
            case = next((case for case in ANY_CALL if (case.fault, case.at) == (fault, call) and kind in case.on), None)
            played = cell(case, kind) if case is not None else None
            failed += played is not None and bool(played.wrong)
            row.append("no such call" if played is None else str(played))
        table.add_row(fault, *row)
    return table, failed


def buying(kinds: Sequence[str]) -> tuple[Table, int]:
    """What a create that is lost, late or doubled buys of six rows, at each kind."""
    table = Table("the create", *kinds, title="What a create buys of 6 rows", title_justify="left", box=None, header_style="bold")
    failed = 0
    for words, fault in BUYING.items():
        row = []
        for kind in kinds:
            played = [cell(case, kind) for case in CREATE if case.fault.startswith(fault) and kind in case.on][:1]
            failed += sum(bool(one.wrong) for one in played)
            row.append(str(played[0]) if played else "-")
        table.add_row(words, *row)
    return table, failed


def main() -> int:
    kinds = sys.argv[1:] or KINDS
    console = Console(width=None if sys.stdout.isatty() else 220, highlight=False)
    failed = 0
    for kind in kinds:
        table, wrong = matrix(kind)
        console.print(table, "")
        failed += wrong
    table, wrong = buying(kinds)
    console.print(table, "")
    console.print(
        f"{failed + wrong} cells do not hold." if failed + wrong else "Every cell holds: no row lost, none paid twice but where it says so."
    )
    return 1 if failed + wrong else 0


if __name__ == "__main__":
    os.environ["SSL_CERT_DIR"] = str(Path(__file__).parents[1] / "support" / "certificates")
    sys.exit(main())
