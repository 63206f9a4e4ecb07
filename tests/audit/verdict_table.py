"""Verdict table: `python -m tests.audit.verdict_table SEEDS`: how often each verdict is right, with all that a log may have and with less, as Markdown.

The table of docs/notes/measurements.md; minutes for a dozen seeds.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from keld.audit import Waits, examine
from tests.audit.workload import ANONYMOUS, DECEIVING, FREE, WAITING, Call, month, whole_seconds
from tests.audit.writer import litellm, litellm_rows, openai_usage

_IDS, _STREAMS = ("end_user", "session_id"), ("completionStartTime",)
_PEOPLE = {*WAITING, *ANONYMOUS, "pool"}  # somebody waits


def _without(*names: str) -> Callable[[list[Call]], bytes]:
    return lambda calls: "".join(
        json.dumps({name: value for name, value in row.items() if name not in names}) + "\n" for row in litellm_rows(calls)
    ).encode()


EVIDENCE: dict[str, Callable[[list[Call]], bytes]] = {
    "everything": litellm,
    "no people, no sessions": _without(*_IDS),
    "and no streams": _without(*_IDS, *_STREAMS),
    "everything, in whole seconds": lambda calls: litellm(whole_seconds(calls)),
    "buckets of a minute": openai_usage,
}


def main(seeds: int) -> None:
    groups = WAITING | FREE | DECEIVING | ANONYMOUS
    print("| evidence in the log | does not wait | of these wrong | waits | of these wrong | ask |\n|---|---:|---:|---:|---:|---:|")
    with TemporaryDirectory() as folder:
        log = Path(folder, "log")
        for title, write in EVIDENCE.items():
            said: Counter[tuple[Waits, bool]] = Counter()
            for seed in range(1, seeds + 1):
                log.write_bytes(write(month(seed, groups=groups)))
                found = examine([str(log)], now=datetime(2026, 11, 30, tzinfo=UTC))
                said.update((one.waits, one.key.service in _PEOPLE) for one in found.findings)
            sums = {waits: said[waits, True] + said[waits, False] for waits in Waits}
            wrong = said[Waits.NO, True], said[Waits.YES, False]
            print(f"| {title} | {sums[Waits.NO]} | {wrong[0]} | {sums[Waits.YES]} | {wrong[1]} | {sums[Waits.ASK]} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
