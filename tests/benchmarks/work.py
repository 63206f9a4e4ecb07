"""Work: the measured pieces, each run in a process of its own; prints seconds (imports left out) and peak memory as JSON.

python -m tests.benchmarks.work encode naive|keld|snapshot DIRECTORY
python -m tests.benchmarks.work decode naive|keld DIRECTORY
python -m tests.benchmarks.work enrich keld|copy DIRECTORY
python -m tests.benchmarks.work partitions COUNT DIRECTORY  (the server's address in the environment)
python -m tests.benchmarks.work road DIRECTORY           (the server's address in the environment)
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tests.benchmarks.process import measured
from tests.benchmarks.ticket import PROMPT, SCHEMA, SYSTEM

NONCE = "benchmarks"


def encode_naive(folder: Path) -> float:
    """What one writes first: pandas, a dict a row, `json.dumps`; cut by rows and bytes as a careful author would."""
    import pandas as pd

    start = time.perf_counter()
    table = pd.read_parquet(folder / "tickets.parquet")
    shard, size = 0, 0
    file = (folder / "naive-0.jsonl").open("w")
    for n, row in enumerate(table.itertuples()):
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT.format(body=row.body)}]
        schema = {"name": "Label", "strict": True, "schema": SCHEMA}
        body = {
            "model": "gpt-5-mini", "max_completion_tokens": 1024, "messages": messages,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }  # fmt: skip
        line = json.dumps({"custom_id": f"row-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n"
        if n and (n % 50_000 == 0 or size + len(line) > 200_000_000):
            file.close()
            shard, size = shard + 1, 0
            file = (folder / f"naive-{shard}.jsonl").open("w")
        file.write(line)
        size += len(line)
    file.close()
    return time.perf_counter() - start


def encode_keld(folder: Path) -> float:
    """Snapshot -> shard files, digests and fsync included: what is done before each upload."""
    from keld import snapshot
    from keld.providers.account import ACCOUNTS
    from keld.providers.provider import connect
    from keld.shard import cut
    from keld.staging import write_file

    provider = connect("openai", ACCOUNTS["openai"])
    taken = folder / "snapshot.parquet"
    encoder = provider.encoder(_question(), "gpt-5-mini", NONCE)
    import numpy as np

    _warm()
    start = time.perf_counter()
    for n, part in enumerate(cut(snapshot.sizes(taken), encoder.overhead_bytes, provider.traits.limits)):
        blocks = snapshot.fragment_blocks(taken, np.arange(part.start, part.stop))
        write_file(folder / f"keld-{n}.jsonl", encoder.file(blocks), "benchmark")
    return time.perf_counter() - start


def encode_snapshot(folder: Path) -> float:
    """Table -> snapshot: read, render, escape, fingerprint, check the keys, keep."""
    from keld import snapshot
    from keld.table import open_table
    from tests.benchmarks.job import JOB

    _warm()
    start = time.perf_counter()
    snapshot.take(JOB, open_table(folder / "tickets.parquet"), folder / "snapshot.parquet")
    return time.perf_counter() - start


def decode_naive(folder: Path) -> float:
    """A `json.loads` loop over the file, the answer's JSON too, into typed Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = time.perf_counter()
    columns: dict[str, list[object]] = {name: [] for name in ("id", "category", "urgency", "error", "model", "input", "output")}
    with (folder / "results.jsonl").open("rb") as file:
        for line in file:
            found = json.loads(line)
            body = found["response"]["body"]
            answer = json.loads(body["choices"][0]["message"]["content"]) if found["response"]["status_code"] == 200 else {}
            usage = body.get("usage") or {}
            for name, value in (
                ("id", found["custom_id"]), ("category", answer.get("category")), ("urgency", answer.get("urgency")),
                ("error", (body.get("error") or {}).get("message")), ("model", body.get("model")), ("input", usage.get("prompt_tokens")),
                ("output", usage.get("completion_tokens")),
            ):  # fmt: skip
                columns[name].append(value)
    pq.write_table(pa.table(columns), folder / "naive.parquet")
    return time.perf_counter() - start


def decode_keld(folder: Path) -> float:
    """Result file -> answers file: judged, priced, one a row, in the rows' order."""
    from datetime import UTC, datetime

    import numpy as np

    from keld.answer import Sent, judge_results
    from keld.price import Lane
    from keld.pricing import rates
    from keld.providers.account import ACCOUNTS
    from keld.providers.provider import connect
    from keld.schema import OutputSchema

    provider = connect("openai", ACCOUNTS["openai"])
    rows = int((folder / "results.rows").read_text())
    known = rates("openai", "gpt-5-mini", Lane.BATCH, datetime(2026, 11, 20, tzinfo=UTC))
    assert known is not None
    sent = Sent(nonce=NONCE, positions=np.arange(rows), model="openai:gpt-5-mini", lane="batch", rates=known, standard=known)
    output = OutputSchema.from_json(_question().output)
    _warm()
    start = time.perf_counter()
    tally = judge_results(
        [folder / "results.jsonl"], provider.reader(_question(), "gpt-5-mini").results, sent, output, folder / "answers.parquet"
    )
    spent = time.perf_counter() - start
    assert tally.outcomes.total() == rows
    return spent


def enrich_keld(folder: Path) -> float:
    """Snapshot and answers -> the enriched table."""
    from keld.enrich import enrich, enriched_schema, source_schema
    from keld.schema import OutputSchema
    from keld.table import write_table

    taken, output = folder / "snapshot.parquet", OutputSchema.from_json(_question().output)
    _warm()
    start = time.perf_counter()
    schema = enriched_schema(source_schema(taken), output)
    write_table(str(folder / "enriched.parquet"), schema, enrich(taken, [folder / "answers.parquet"], output))
    return time.perf_counter() - start


def enrich_copy(folder: Path) -> float:
    """Reads the enriched table and writes it again, in the same way."""
    import pyarrow.parquet as pq

    from keld.table import read_parquet, write_table

    _warm()
    start = time.perf_counter()
    schema = pq.read_schema(folder / "enriched.parquet")
    write_table(str(folder / "copy.parquet"), schema, read_parquet(folder / "enriched.parquet"))
    return time.perf_counter() - start


def road(folder: Path) -> float:
    """`keld run`: table in, enriched Parquet out, through the emulator, ledger and digests on."""
    from keld.cli import main

    os.environ["KELD_HOME"] = str(folder / "home")
    source, sink = folder / "tickets.parquet", folder / "enriched.parquet"
    sys.argv = [
        "keld",
        "run",
        "tests.benchmarks.job:JOB",
        "-s",
        str(source),
        "-t",
        str(sink),
        "-p",
        "2026-11-19",
        "--poll-s",
        "0.05",
        "--json",
    ]
    start = time.perf_counter()
    try:
        main()
    except SystemExit as left:
        assert not left.code, left
    return time.perf_counter() - start


def partitions(folder: Path, count: int) -> None:
    """`Keld.run` of the same table as so many partitions, one after the other."""
    from keld import Keld
    from tests.benchmarks.job import JOB

    with Keld(home=folder / "home") as keld:
        for n in range(count):
            source, sink = str(folder / "tickets.parquet"), str(folder / f"enriched-{n}.parquet")
            keld.run(JOB, source, partition=f"p{n}", sink=sink, poll_s=0.05)


def _question():  # type: ignore[no-untyped-def]
    from keld.request import Question
    from keld.schema import output_schema

    return Question(system=SYSTEM, output=output_schema(SCHEMA).to_json())


def _warm() -> None:
    """pyarrow imports pandas, where it is installed, at its first array: no work of ours."""
    import pyarrow as pa

    pa.array(["x"])


if __name__ == "__main__":
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")  # as the `keld` command does
    *words, where = sys.argv[1:]
    numbers = [int(word) for word in words if word.isdigit()]
    piece = globals()["_".join(word for word in words if not word.isdigit())]
    measured(lambda: piece(Path(where), *numbers))
