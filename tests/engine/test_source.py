"""A table's way through a job run: what stands in a file is asked and written back, and what was paid for by other types is not paid again."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from keld import Job, Keld
from keld.cli import app
from keld.emulator import Emulator
from keld.errors import InvalidJob, SinkError, SinkRefused, SourceError
from tests.support.ticket_job import finish


def _job(**terms: Any) -> Job:
    return Job(**{"name": "labels", "key": "id", "prompt": "Say {body}", "models": "openai:gpt-5-mini", **terms})


def _asked(keld: Keld, run_id: str) -> list[str]:
    snapshot = pq.read_table(keld.staging.run(run_id).snapshot)
    return [json.loads(prompt) for prompt in snapshot.column("keld_prompt").to_pylist() if prompt is not None]


@pytest.fixture
def sqlite_keld(open_emulator: Callable[..., Emulator], tmp_path: Path) -> Any:
    emulator = open_emulator()
    with Keld(home=tmp_path / "home", clock=emulator.now) as keld:
        yield keld, emulator


def test_what_stands_in_a_csv_is_asked_and_written_back(sqlite_keld: Any, tmp_path: Path) -> None:
    keld, emulator = sqlite_keld
    rows = [["id", "body", "empty"], ["007", "12E5", ""], ["+49", '"1.10"', "x"]]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    status = keld.submit(_job(), tmp_path / "t.csv", sink=tmp_path / "o.csv")
    assert _asked(keld, status.id) == ["Say 12E5", 'Say "1.10"']
    finish(keld, emulator, status.id)
    with (tmp_path / "o.csv").open(newline="") as file:
        assert [row[:3] for row in csv.reader(file)] == rows


def test_rows_whose_text_is_the_same_are_not_paid_again_when_their_columns_become_text(sqlite_keld: Any, tmp_path: Path) -> None:
    """Columns of CSV had types once: a partition that is run again asks only what reads differently."""
    keld, emulator = sqlite_keld
    typed = pa.table({"id": [1, 2, 3], "body": [10, 7, 12], "day": pa.array(["2026-11-01"] * 3).cast(pa.date32())})
    job = _job(prompt="{body} on {day}")
    finish(keld, emulator, keld.submit(job, typed).id)
    assert len(emulator.bill()) == 3
    (tmp_path / "t.csv").write_text("id,body,day\n1,10,2026-11-01\n2,007,2026-11-01\n3,12,2026-11-01\n")
    again = finish(keld, emulator, keld.submit(job, tmp_path / "t.csv").id)
    assert (again.generation, again.reused, again.answered, len(emulator.bill())) == (2, 2, 3, 4)


def test_one_bad_row_is_told_and_the_others_are_asked(sqlite_keld: Any, tmp_path: Path) -> None:
    keld, emulator = sqlite_keld
    (tmp_path / "t.jsonl").write_text('{"id":1,"body":"x\\ud83d"}\n{"id":2,"body":"y"}\n')
    status = finish(keld, emulator, keld.submit(_job(), tmp_path / "t.jsonl").id)
    rows = keld.read(status.id).read_all().to_pylist()
    assert [row["keld_outcome"] for row in rows] == ["unaskable", "answered"]
    assert rows[0]["keld_error"] == "line 1: 'body' holds a lone surrogate, which is no text"
    assert list(rows[0])[:3] == ["id", "body", "answer"]


@pytest.mark.parametrize("rows", [[], pa.table({})], ids=["no rows", "a table without columns"])
def test_an_empty_partition_is_finished_at_once(rows: Any, sqlite_keld: Any, tmp_path: Path) -> None:
    keld, emulator = sqlite_keld
    status = finish(keld, emulator, keld.submit(_job(priority="weight"), rows, sink=tmp_path / "o.parquet").id)
    assert (status.rows, status.answered) == (0, 0)
    assert pq.read_schema(tmp_path / "o.parquet").names[:3] == ["id", "body", "weight"]


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"prompt": "{body} {n:.2f}"}, r"prompt formats \{n:\.2f\}.*types=\{'n'"),
        ({"priority": "n"}, r"priority names the column 'n'.*types=\{'n'"),
        ({"priority": "m"}, "priority names the column 'm', which the table does not have"),
    ],
)
def test_text_where_a_number_is_needed_is_refused_with_the_way(terms: dict[str, Any], says: str, sqlite_keld: Any, tmp_path: Path) -> None:
    """Every row would have been unaskable, or the plan without an order."""
    keld, emulator = sqlite_keld
    (tmp_path / "t.csv").write_text("id,body,n\n1,x,2.5\n")
    with pytest.raises(SourceError, match=says):
        keld.submit(_job(**terms), tmp_path / "t.csv")
    if "m" not in terms.values():
        assert finish(keld, emulator, keld.submit(_job(**terms), tmp_path / "t.csv", types={"n": "decimal(12,4)"}).id).answered == 1


def test_a_column_in_double_braces_as_jinja_has_it_is_refused_with_the_way(sqlite_keld: Any) -> None:
    """Every row would be paid for without its text; braces that name no column are sent as they are, for JSON."""
    keld, emulator = sqlite_keld
    rows = [{"id": 1, "body": "x", "n": 2}]
    with pytest.raises(SourceError, match=r"prompt has \{\{body\}\} in double braces.*Write \{body\}"):
        keld.submit(_job(prompt="Classify {{ body }} of {n}"), rows)
    assert not emulator.requests()
    assert (
        finish(keld, emulator, keld.submit(_job(prompt='{body}: answer as {{"body": {{label}}}}, not as {{body}}'), rows).id).answered == 1
    )


def test_a_column_of_json_is_asked_as_what_it_holds(sqlite_keld: Any, tmp_path: Path) -> None:
    """A text here, a conversation there: so datasets are written."""
    keld, _ = sqlite_keld
    from keld import Column

    talk = [{"role": "user", "content": "hi"}]
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": 1, "m": "hello"}) + "\n" + json.dumps({"id": 2, "m": talk}) + "\n")
    assert _asked(keld, keld.submit(_job(prompt=Column("m")), tmp_path / "t.jsonl").id) == ["hello", talk]


def test_the_plan_says_which_columns_are_text_and_how_to_declare_them(sqlite_keld: Any, tmp_path: Path) -> None:
    keld, _ = sqlite_keld
    (tmp_path / "t.csv").write_text("id;body\n1;ü\n", encoding="cp1252")
    plan = keld.plan(_job(), tmp_path / "t.csv", delimiter=";", encoding="cp1252", types={"id": "int64"})
    assert plan.table_notes[0].startswith("CSV, CP1252, a semicolon between fields: text as it is written in body.")
    assert "types={" in plan.table_notes[0]


def test_the_command_line_takes_types_encoding_delimiter_and_quote(
    open_emulator: Callable[..., Emulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_emulator(frozen=False, latency_s=0)
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "home"))
    (tmp_path / "jobs.py").write_text(
        "from keld import Job\nlabels = Job(name='labels', key='id', prompt='{body} {n:.2f}', models='openai:gpt-5-mini')\n"
    )
    (tmp_path / "t.csv").write_text("id;body;n\n1;'ü;x';2.5\n", encoding="cp1252")
    words = [f"{tmp_path}/jobs.py:labels", "--source", f"{tmp_path}/t.csv", "--delimiter", ";", "--quote", "'", "--encoding", "cp1252"]
    refused = CliRunner().invoke(app, ["plan", *words])
    assert (refused.exit_code, "--types 'n=" in refused.output.replace("\n", "")) == (2, True)
    words += ["--types", "n=decimal(12,4)"]
    planned = CliRunner().invoke(app, ["plan", *words])
    assert planned.exit_code == 0, planned.output
    assert "text as it is written in id, body" in planned.output.replace("\n", "")
    ran = CliRunner().invoke(app, ["run", *words, "--sink", f"{tmp_path}/o.csv", "--poll-s", "0.05"])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "o.csv").read_text().splitlines()[1].startswith('"1","ü;x","2.5000"')
    assert CliRunner().invoke(app, ["plan", *words, "--types", "n"]).exit_code == 2


def test_what_a_plan_prints_accounts_for_every_row(
    open_emulator: Callable[..., Emulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_emulator(frozen=False, latency_s=0)
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "home"))
    (tmp_path / "jobs.py").write_text(
        "from keld import Job\nlabels = Job(name='labels', key='id', prompt='{body}', models='openai:gpt-5-mini')\n"
    )
    (tmp_path / "t.csv").write_text("id,body\n1,x\n2,\n3,x\n")
    told = CliRunner().invoke(app, ["plan", f"{tmp_path}/jobs.py:labels", "-s", f"{tmp_path}/t.csv"]).output.replace("\n", " ")
    assert "3 rows, 1 to ask, 1 row repeats another one and takes its answer, 1 row cannot be asked (1: column body is null)." in told


def test_what_a_second_run_prints_says_that_nothing_was_paid(
    open_emulator: Callable[..., Emulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures below it are those of the first run; a person would read them as another bill."""
    emulator = open_emulator(frozen=False, latency_s=0)
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "home"))
    (tmp_path / "jobs.py").write_text(
        "from keld import Job\nlabels = Job(name='labels', key='id', prompt='{body}', models='openai:gpt-5-mini')\n"
    )
    (tmp_path / "t.csv").write_text("id,body\n1,x\n")
    words = ["run", f"{tmp_path}/jobs.py:labels", "-s", f"{tmp_path}/t.csv", "-t", f"{tmp_path}/o.csv", "--poll-s", "0.05", "-p", "monday"]
    first = CliRunner().invoke(app, words)
    assert (first.exit_code, "nothing is sent or paid now" in first.output) == (0, False)
    before = len(emulator.requests())
    assert "labels[monday] was asked before: nothing is sent or paid now" in CliRunner().invoke(app, words).output
    assert len(emulator.requests()) == before
    missed = CliRunner().invoke(app, ["cancel", "labels"])
    assert (missed.exit_code, "without a partition" in missed.output, "its partitions there: monday" in missed.output) == (1, True, True)
    monkeypatch.setenv("KELD_NAMESPACE", "elsewhere")
    assert "in the namespace 'elsewhere'" in (found := CliRunner().invoke(app, ["cancel", "labels", "-p", "monday"]).output)
    assert "other namespaces: default" in found


@pytest.mark.parametrize(
    ("source", "sink", "is_part"),
    [
        ("in/t.csv", "in/t.csv", True),
        ("in/t.csv", "in/../in/t.csv", True),
        ("link/t.csv", "in/t.csv", True),
        ("in", "in/", True),
        ("in", "in/deep/out.csv", True),
        ("in/*.csv", "in/out.csv", True),
        ("in/**/*.csv", "in/deep/out.csv", True),
        ("in/{partition}.csv", "in/t.csv", True),
        ("in/t.csv", "in/out.csv", False),
        ("in/*.csv", "in/deep/out.csv", False),
        ("in", "in/_out/out.csv", False),
        ("in", "inside/out.csv", False),
    ],
)
def test_a_sink_that_is_part_of_the_source_is_refused(sqlite_keld: Any, tmp_path: Path, source: str, sink: str, is_part: bool) -> None:
    """Else the rows that were asked are gone, or answers are read as rows the next time."""
    keld, emulator = sqlite_keld
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "t.csv").write_text("id,body\n1,x\n")
    if not is_part:
        keld.submit(_job(), f"{tmp_path}/{source}", sink=f"{tmp_path}/{sink}", partition="t")
        return
    with pytest.raises(SinkRefused, match=r"is part of the source.*Nothing was sent"):
        keld.submit(_job(), f"{tmp_path}/{source}", sink=f"{tmp_path}/{sink}", partition="t")
    assert (tmp_path / "in" / "t.csv").read_text() == "id,body\n1,x\n"
    assert not emulator.requests()


@pytest.mark.parametrize(
    ("sink", "fault", "why"),
    [
        ("", InvalidJob, "is empty"),
        (" ", InvalidJob, "is empty"),
        (5, InvalidJob, "of type int"),
        ("s3x://bucket/o.csv", SinkError, "Unsupported filesystem"),
        ("{tmp}/there.parquet", SinkError, "Is a directory"),
        ("{tmp}/lake/", SinkRefused, "inside of a Delta table"),
        ("{tmp}/lake/day=1/o.parquet", SinkRefused, "inside of a Delta table"),
        ("{tmp}/o.csv.gz", SinkRefused, "no writer"),
        ("{tmp}/o.CSV.GZ", SinkRefused, "no writer"),
        ("{tmp}/o.jsonl.zst", SinkRefused, "no writer"),
        ("{tmp}/o.csv.bz2", SinkRefused, "no writer"),
        ("{tmp}/{partition}.orc", SinkRefused, "no writer"),
        ("s3://bucket/{partition}.xlsx", SinkRefused, "no writer"),
        ("{tmp}/\udce9.parquet", InvalidJob, "is no UTF-8"),
    ],
)
def test_a_sink_that_nothing_can_be_written_to_is_refused_in_words(
    sqlite_keld: Any, tmp_path: Path, sink: Any, fault: type[Exception], why: str
) -> None:
    keld, emulator = sqlite_keld
    (tmp_path / "there.parquet").mkdir()
    (tmp_path / "lake" / "_delta_log").mkdir(parents=True)
    with pytest.raises(fault, match=f"{why}.*Nothing was sent"):
        keld.submit(_job(), [{"id": 1, "body": "x"}], sink=sink.replace("{tmp}", str(tmp_path)) if isinstance(sink, str) else sink)
    assert not emulator.requests()


def test_a_suffix_without_a_writer_is_refused_before_the_source_is_read(sqlite_keld: Any) -> None:
    """A table of a night's size is read for minutes, or may not be there yet."""
    keld, _ = sqlite_keld
    with pytest.raises(SinkRefused, match="no writer for this suffix"):
        keld.submit(_job(), "not-there-yet.parquet", sink="out.orc")


def test_a_tilde_is_the_home_directory(sqlite_keld: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In quotes, which the braces of a template want, no shell says so."""
    keld, _ = sqlite_keld
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.csv").write_text("id,body\n1,x\n")
    status = keld.submit(_job(), "~/t.csv", sink="~/out/{partition}.csv", partition="monday")
    assert (status.rows, status.sink, status.source) == (1, f"{tmp_path}/out/{{partition}}.csv", f"{tmp_path}/t.csv")
