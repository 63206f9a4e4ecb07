"""`make bench`: the figures Keld stands by, as ratios of runs that took turns.  Minutes; nothing is asserted.

Every measured piece runs in a process of its own, imports left out of the time of small pieces and part of that of whole runs; methods take turns
round by round and a ratio is the median over rounds, so that a machine that slows down slows both.  Peak memory is of the whole process.
`make bench-full` adds 10^6 and 10^7 rows, and one partition against many.  All of it goes to `.bench/` as Markdown, JSON and plots.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from keld.realtime.goodput import Goodput
from tests.benchmarks.environment import NotInstalled, python_of
from tests.benchmarks.peer import PACKAGES, ROWS_MOST
from tests.benchmarks.report import Report
from tests.benchmarks.saturating import ENGINES, best_fixed, lengths, played
from tests.benchmarks.ticket import write_results, write_tickets
from tests.benchmarks.work import NONCE

_HOME = Path(".bench")
_SECTIONS = ("encode", "decode", "road", "imports", "steps", "ticks", "goodput", "growth", "partitions")
_FULL = ("growth", "partitions")
_SPARE = 3  # free disk that a run may take, times the bytes of its input lines
_PEER_S = 900


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--peers", nargs="*", choices=tuple(PACKAGES), default=[])
    parser.add_argument("--full", action="store_true", help="10^6 and 10^7 rows, and 1 to 1,000 partitions")
    parser.add_argument("--only", choices=_SECTIONS)
    given = parser.parse_args()
    report = Report(given.rounds)
    # Memory-backed where there is such a place: the disk of a shared machine is the noisiest part of it.
    folder = Path(mkdtemp(prefix="keld-bench-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        for name in (given.only,) if given.only else [name for name in _SECTIONS if given.full or name not in _FULL]:
            if name == "road":
                road(report, folder, given.rows, given.rounds, given.peers)
            else:
                globals()[name](report, folder, given.rows, given.rounds)
            clear(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        report.write(_HOME)


def encode(report: Report, folder: Path, rows: int, rounds: int) -> None:
    report.section(f"encode: {rows:,} rows of about 1 KB, 1.4 KB of system prompt each, to shard files")
    write_tickets(folder / "tickets.parquet", rows)
    runs: dict[str, list[dict[str, float]]] = {"naive": [], "snapshot": [], "keld": []}
    for _ in range(rounds):
        for method, results in runs.items():
            results.append(work("encode", method, folder))
    seconds = {method: [run["seconds"] for run in found] for method, found in runs.items()}
    report.ratio(
        "pandas + json.dumps, against shard files from the snapshot", seconds["naive"], seconds["keld"], "goal 6 x, on two cores 10 x"
    )
    report.ratio(
        "the snapshot (keys, fingerprints, a durable copy), against pandas + json.dumps",
        seconds["snapshot"],
        seconds["naive"],
        "goal 0.3 x",
    )
    for name, what in (("snapshot", "taking the snapshot"), ("keld", "writing shard files")):
        report.say(f"peak memory of {what}", f"{max(run['rss_mb'] for run in runs[name]):.0f} MB", "goal 200 MB")


def decode(report: Report, folder: Path, rows: int, rounds: int) -> None:
    rows = min(rows, 50_000)  # what one result file can hold
    report.section(f"decode: {rows:,} result lines of about 1 KB to typed Parquet, and the enriched table")
    write_results(folder / "results.jsonl", rows, NONCE)
    (folder / "results.rows").write_text(str(rows))
    write_tickets(folder / "tickets.parquet", rows)
    work("encode", "snapshot", folder)
    runs: dict[tuple[str, str], list[dict[str, float]]] = {
        ("decode", "naive"): [], ("decode", "keld"): [], ("enrich", "keld"): [], ("enrich", "copy"): [],
    }  # fmt: skip
    for _ in range(rounds):
        for piece, results in runs.items():
            results.append(work(*piece, folder))
    seconds = {piece: [run["seconds"] for run in found] for piece, found in runs.items()}
    report.ratio("a json.loads loop, against result file to answers", seconds["decode", "naive"], seconds["decode", "keld"], "goal 3.5 x")
    report.ratio("the enriched table, against reading and writing it", seconds["enrich", "keld"], seconds["enrich", "copy"], "goal 1.1 x")
    peaks = [max(run["rss_mb"] for run in runs["decode", method]) for method in ("keld", "naive")]
    report.say("peak memory of decoding", f"{peaks[0]:.0f} MB", f"the loop: {peaks[1]:.0f} MB")


def road(report: Report, folder: Path, rows: int, rounds: int, peers: Sequence[str]) -> None:
    report.section(f"end to end: {rows:,} rows, ledger and digests on; the server answers at once")
    python, others = keld_python(report) if peers else Path(sys.executable), {}
    for name in peers:
        try:
            others[name] = python_of(_HOME / "environments", name, PACKAGES[name])
        except NotInstalled as why:
            report.say(name, "skipped", str(why))
    whole: dict[str, list[dict[str, float]]] = {"keld": [], **{name: [] for name in others if name not in ROWS_MOST}}
    for _ in range(rounds):
        for name, runs in whole.items():
            if (run := end_to_end(report, folder, name, python if name == "keld" else others[name], rows)) is not None:
                runs.append(run)
    for name, runs in whole.items():
        if len(runs) == rounds:
            report.runs(name, runs, rows)
    for name, most in ROWS_MOST.items():
        if name in others and (run := end_to_end(report, folder, name, others[name], min(rows, most))) is not None:
            report.runs(name, [run], min(rows, most))
    rivals = {name: [run["seconds"] for run in runs] for name, runs in whole.items() if name != "keld" and len(runs) == rounds}
    if rivals:
        fastest = min(rivals, key=lambda name: median(rivals[name]))
        report.ratio(f"rows/s against {fastest}, the fastest peer", rivals[fastest], [run["seconds"] for run in whole["keld"]], "goal 2 x")
        for what, field, goal in (("CPU", "cpu_s", "-"), ("peak memory", "rss_mb", "goal 0.25 x")):
            report.ratio(f"{what} against {fastest}", [run[field] for run in whole["keld"]], [run[field] for run in whole[fastest]], goal)


def growth(report: Report, folder: Path, rows: int, rounds: int) -> None:
    report.section("growth: one run each, bodies of 200 bytes")
    found: list[tuple[float, dict[str, float]]] = []
    for n in (10_000, 100_000, 1_000_000, 10_000_000):
        clear(folder)
        with TemporaryDirectory(prefix="keld-bench-", dir=Path.cwd()) as disk:
            need = n * 2_300 * _SPARE // 2
            place = next((place for place in (folder, Path(disk)) if shutil.disk_usage(place).free >= need), None)
            if place is None:
                report.say(f"{n:,} rows", "skipped", f"it may take {need >> 30} GB of disk, and so many are not free")
            elif (run := end_to_end(report, place, "keld", keld_python(report), n, short=True)) is not None:
                report.runs("keld", [run], n)
                found.append((n, run))
    report.plot("growth-memory", "peak MB by rows", {"keld": [(n, run["rss_mb"]) for n, run in found]})
    report.plot(
        "growth-time",
        "seconds by rows",
        {"seconds": [(n, run["seconds"]) for n, run in found], "CPU": [(n, run["cpu_s"]) for n, run in found]},
    )


def partitions(report: Report, folder: Path, rows: int, rounds: int) -> None:
    report.section(f"partitions: {rows:,} rows of 200 bytes, cut into partitions of one job, in one process")
    found: list[tuple[float, dict[str, float]]] = []
    for n in (1, 10, 100, 1_000):
        clear(folder)
        write_tickets(folder / "tickets.parquet", rows // n, short=True)
        with host() as environment:
            run = work("partitions", str(n), folder, environment=environment)
        report.runs(f"{n:,} partitions", [run], rows // n * n)
        found.append((n, run))
    report.plot("partitions", "CPU seconds by partitions", {"keld": [(n, run["cpu_s"]) for n, run in found]})


def keld_python(report: Report) -> Path:
    """An interpreter with Keld as its users install it; this one if that cannot be made."""
    try:
        return python_of(_HOME / "environments", "keld", [str(Path.cwd())])
    except NotInstalled as why:
        report.say("Keld without its extras", "not made", f"measured with all that is installed here: {why}")
        return Path(sys.executable)


def end_to_end(report: Report, folder: Path, name: str, python: Path, rows: int, *, short: bool = False) -> dict[str, float] | None:
    """One run of all rows by one tool, from a table to a table; None if it failed, which is said."""
    made, run = folder / f"tickets-{rows}.parquet", folder / "run"
    if not made.exists():
        write_tickets(made, rows, short=short)
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    (run / "tickets.parquet").hardlink_to(made)
    words = ["tests.benchmarks.work", "road"] if name == "keld" else ["tests.benchmarks.peer", name]
    with host() as environment:
        try:
            return run_module(python, [*words, str(run)], environment, timeout_s=None if name == "keld" else _PEER_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = str(error.stderr or "").strip().splitlines()
            if name == "keld":
                sys.exit("\n".join(said[-20:]))
            report.say(name, "failed", said[-1][:200] if said else type(error).__name__)
            return None


def imports(report: Report, folder: Path, rows: int, rounds: int) -> None:
    report.section("imports: fresh processes")
    times: dict[str, list[float]] = {"pass": [], "import keld": [], "import openai": []}
    for _ in range(rounds + 1):  # the first warms the disk cache
        for statement, spent in times.items():
            program = f"import time; a = time.perf_counter()\n{statement}\nprint(time.perf_counter() - a)"
            spent.append(float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout))
    ratio = median(a / b for a, b in zip(times["import keld"][1:], times["import openai"][1:], strict=True))
    report.say("import keld, against import openai", f"{ratio:.3f} x", f"goal 0.4 x; {median(times['import keld'][1:]) * 1000:.0f} ms")


def steps(report: Report, folder: Path, rows: int, rounds: int) -> None:
    report.section("steps: a durable change of a shard's state in SQLite, on a disk; a job run of many shards")
    with TemporaryDirectory(prefix="keld-bench-", dir=Path.cwd()) as disk:  # not in memory: the fsync is what the driver's own time is
        times = run_module(Path(sys.executable), ["tests.benchmarks.transition", f"sqlite:///{disk}/ledger.db", "300", str(rounds)], {})
    report.ratio("the ledger, against the driver alone", times["keld"], times["driver"], "goal 2 x")
    few, many = 10, min(1_000, max(20, rows // 100))
    shards = run_module(Path(sys.executable), ["tests.benchmarks.many_shards", str(few), str(many)], {})
    for what in ("submit", "collect"):
        found = shards[str(many)][f"{what}_ms_a_shard"]
        report.say(
            f"to {what} a shard of {many:,}", f"{found:.1f} ms", f"of CPU; of {few}: {shards[str(few)][f'{what}_ms_a_shard']:.1f} ms"
        )
    report.say(f"a look at {many:,} shards", f"{shards[str(many)]['look_ms']:.0f} ms", "of CPU")


def ticks(report: Report, folder: Path, rows: int, rounds: int) -> None:
    count = min(10_000, rows // 10)
    report.section(f"ticks: a look at {count:,} open batches of as many job runs, to which nothing has happened")
    with host("waiting") as environment:
        found = run_module(Path(sys.executable), ["tests.benchmarks.waits", str(count)], environment)
    for verb, what in (("poll", "a poll of Keld's"), ("tick", "a tick of the Dagster sensor, its holds and what it tells of them")):
        costs = found[verb]
        remark = f"of CPU, goal 1 s; {costs['statements']} statements, {costs['calls']} calls, goal 110"
        report.say(what, f"{costs['cpu_s']:.2f} s", remark)


def goodput(report: Report, folder: Path, rows: int, rounds: int) -> None:
    report.section("goodput: simulated engines of one's own, in simulated time; against the best of all fixed numbers at once")
    for name, (engine, count) in ENGINES.items():
        answers = lengths(count)
        (fixed, best), found = best_fixed(engine, answers), played(engine, Goodput(4, 512), answers)
        share = found.tokens_per_s / best.tokens_per_s
        report.say(
            f"{name}: {count:,} rows",
            f"{share:.0%}",
            f"goal 85 %; best fixed {fixed}, most at once {max(found.at_once)}, refused {found.refused}",
        )


def work(*words: str | Path, environment: dict[str, str] | None = None) -> dict[str, float]:
    """Runs one piece of `work` in its own process."""
    try:
        return run_module(Path(sys.executable), ["tests.benchmarks.work", *map(str, words)], environment or {})
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{error.stderr[-2000:]}")


def run_module(python: Path, words: Sequence[str], environment: dict[str, str], timeout_s: float | None = None) -> dict[str, Any]:
    """What a module prints as the last line of its output."""
    # Compiled once, as wherever it is installed: else each process would compile its libraries again.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [str(python.absolute()), "-m", *words], capture_output=True, text=True, check=True, env=inherited | environment, timeout=timeout_s
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def host(*words: str) -> Iterator[dict[str, str]]:
    """The server in a process of its own; gives the environment that points the SDKs at it."""
    process = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.host", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield {"OPENAI_BASE_URL": url, "OPENAI_API_BASE": url, "OPENAI_API_KEY": "benchmark"}
    finally:
        process.terminate()
        process.wait(30)


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
