"""`make bench`: the figures Keld stands by, as ratios of runs that took turns.  Minutes; nothing is asserted.

Every measured piece runs in a process of its own, imports left out of its time; methods take turns round by round and a ratio is the
median over rounds, so that a machine that slows down slows both.  Peak memory is of the whole process, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import mkdtemp

from keld.realtime.goodput import Goodput
from tests.benchmarks.saturating import ENGINES, best_fixed, lengths, played
from tests.benchmarks.ticket import write_results, write_tickets
from tests.benchmarks.work import NONCE


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--only", choices=("encode", "decode", "road", "imports", "goodput"))
    given = parser.parse_args()
    # Memory-backed where there is such a place: the disk of a shared machine is the noisiest part of it.
    folder = Path(mkdtemp(prefix="keld-bench-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        for name, measure in (("encode", encode), ("decode", decode), ("road", road), ("imports", imports), ("goodput", goodput)):
            if given.only in (None, name):
                measure(folder, given.rows, given.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def encode(folder: Path, rows: int, rounds: int) -> None:
    print(f"\nencode: {rows:,} rows of about 1 KB, 1.4 KB of system prompt each, to shard files; {rounds} rounds", flush=True)
    write_tickets(folder / "tickets.parquet", rows)
    runs: dict[str, list[dict[str, float]]] = {"naive": [], "snapshot": [], "keld": []}
    for _ in range(rounds):
        for method, results in runs.items():
            results.append(work("encode", method, folder))
    small = Path(mkdtemp(dir=folder))
    write_tickets(small / "tickets.parquet", rows // 10)
    few = [work("encode", method, small) for method in ("snapshot", "keld")]
    ratio = median(a["seconds"] / b["seconds"] for a, b in zip(runs["naive"], runs["keld"], strict=True))
    whole = median(a["seconds"] / (b["seconds"] + c["seconds"]) for a, b, c in zip(*runs.values(), strict=True))
    say("shard files from the snapshot, against pandas + json.dumps", f"{ratio:.1f} x", "goal 3.5 x")
    say("the same with taking the snapshot (keys, fingerprints, a durable copy)", f"{whole:.1f} x", "")
    for name, n in (("snapshot", 0), ("keld", 1)):
        peak = max(run["rss_mb"] for run in runs[name])
        say(
            f"peak memory of {'taking the snapshot' if name == 'snapshot' else 'writing shard files'}",
            f"{peak:.0f} MB",
            f"goal 200 MB; {few[n]['rss_mb']:.0f} MB at a tenth of the rows",
        )
    clear(folder)


def decode(folder: Path, rows: int, rounds: int) -> None:
    rows = min(rows, 50_000)  # what one result file can hold
    print(f"\ndecode: {rows:,} result lines of about 1 KB to typed Parquet; {rounds} rounds", flush=True)
    write_results(folder / "results.jsonl", rows, NONCE)
    (folder / "results.rows").write_text(str(rows))
    naive, keld = [], []
    for _ in range(rounds):
        naive.append(work("decode", "naive", folder))
        keld.append(work("decode", "keld", folder))
    say(
        "result file to answers, against a json.loads loop",
        f"{median(a['seconds'] / b['seconds'] for a, b in zip(naive, keld, strict=True)):.1f} x",
        "goal 2.5 x",
    )
    say("peak memory", f"{max(run['rss_mb'] for run in keld):.0f} MB", f"the loop: {max(run['rss_mb'] for run in naive):.0f} MB")
    clear(folder)


def road(folder: Path, rows: int, rounds: int) -> None:
    print(f"\nend to end: {rows:,} rows through the emulator, ledger and digests on", flush=True)
    peaks = {}
    for n in (rows // 10, rows):
        clear(folder)
        write_tickets(folder / "tickets.parquet", n)
        with emulator() as environment:
            run = work("road", folder, environment=environment)
        peaks[n] = run["rss_mb"]
        say(f"{n:,} rows", f"{run['seconds']:.1f} s", f"{n / run['seconds']:,.0f} rows/s, peak memory of the client {run['rss_mb']:.0f} MB")
    say("peak memory against a tenth of the rows", f"{peaks[rows] / peaks[rows // 10]:.2f} x", "goal 1.15 x, and 250 MB")
    clear(folder)


def imports(folder: Path, rows: int, rounds: int) -> None:
    print(f"\nimports: fresh processes, {rounds} rounds", flush=True)
    times: dict[str, list[float]] = {"pass": [], "import keld": [], "import openai": []}
    for _ in range(rounds + 1):  # the first warms the disk cache
        for statement, spent in times.items():
            program = f"import time; a = time.perf_counter()\n{statement}\nprint(time.perf_counter() - a)"
            spent.append(float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout))
    ratio = median(a / b for a, b in zip(times["import keld"][1:], times["import openai"][1:], strict=True))
    say("import keld, against import openai", f"{ratio:.3f} x", f"goal 0.4 x; {median(times['import keld'][1:]) * 1000:.0f} ms")


def goodput(folder: Path, rows: int, rounds: int) -> None:
    print("\ngoodput: simulated engines of one's own, in simulated time; against the best of all fixed numbers at once", flush=True)
    for name, (engine, count) in ENGINES.items():
        answers = lengths(count)
        (fixed, best), found = best_fixed(engine, answers), played(engine, Goodput(4, 512), answers)
        share = found.tokens_per_s / best.tokens_per_s
        say(
            f"{name}: {count:,} rows",
            f"{share:.0%}",
            f"goal 85 %; best fixed {fixed}, most at once {max(found.at_once)}, refused {found.refused}",
        )


def work(*words: str | Path, environment: dict[str, str] | None = None) -> dict[str, float]:
    """Runs one piece of `work` in its own process."""
    command = [sys.executable, "-m", "tests.benchmarks.work", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | (environment or {}))
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def emulator() -> Iterator[dict[str, str]]:
    """The emulator in a process of its own; gives the environment that points the SDKs at it."""
    process = subprocess.Popen([sys.executable, "-m", "keld.emulator", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        words = process.stdout.readline().replace(",", " ").split()
        openai, anthropic, *_ = (word for word in words if word.startswith("http"))
        yield {"OPENAI_BASE_URL": openai, "OPENAI_API_KEY": "benchmark", "ANTHROPIC_BASE_URL": anthropic, "ANTHROPIC_API_KEY": "benchmark"}
    finally:
        process.terminate()
        process.wait(30)


def say(what: str, figure: str, remark: str) -> None:
    print(f"  {what:<72} {figure:>10}   {remark}", flush=True)


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
