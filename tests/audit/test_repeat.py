"""Repeat: each call is counted once, however often a file or a line of it is there."""

import gzip
import os
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from keld.audit import Audit, examine
from keld.audit.view import audit_view, notes
from tests.audit.workload import conversations, month, nightly
from tests.audit.writer import CALLS, _lines, litellm_csv, litellm_rows, openai_usage

NOW = datetime(2026, 11, 30, tzinfo=UTC)
TWO = month(3, groups={"chat": conversations, "classify": nightly})
ROWS = litellm_rows(TWO)
TEXT = _lines(ROWS)


def _audit(*logs: Path | str) -> Audit:
    return examine([str(log) for log in logs], now=NOW)


def _counted(audit: Audit) -> tuple[int, int]:
    return sum(one.calls for one in audit.sources), sum(one.again for one in audit.sources)


def test_a_log_beside_its_packed_copy_its_links_and_under_two_names_is_counted_once_and_told(tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    log.write_bytes(TEXT)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(TEXT))
    (tmp_path / "b").mkdir()
    os.link(log, tmp_path / "b" / "hard.jsonl")
    (tmp_path / "b" / "soft.jsonl").symlink_to(log)
    audit = _audit(tmp_path, tmp_path / "*.jsonl", log, f"{tmp_path}/b/../a.jsonl")
    assert _counted(audit) == (len(TWO), 0)
    told = [one.title for one in audit.sources if one.title.startswith("the same content as a.jsonl")]
    assert len(told) == 3
    screen = Console(width=200)
    with screen.capture() as shown:
        screen.print(audit_view(audit))
    assert "a.jsonl.gz: the same content as a.jsonl, which is counted once" in shown.get()


@pytest.mark.share(2)
@pytest.mark.parametrize("name", CALLS)
def test_calls_of_one_id_are_one_call_where_files_overlap(name: str, tmp_path: Path) -> None:
    """As pages that were fetched twice, or a log that was copied while it grew."""
    _, write = CALLS[name]
    (tmp_path / "1").write_bytes(write(TWO[:700]))
    (tmp_path / "2").write_bytes(write(TWO))
    assert _counted(_audit(tmp_path)) == (len(TWO), 700)


def test_two_kinds_of_export_of_one_log_are_one_log(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(TEXT)
    (tmp_path / "b.csv").write_bytes(litellm_csv(TWO))
    assert _counted(_audit(tmp_path)) == (len(TWO), len(TWO))


def test_lines_in_any_order_and_twice_in_one_file_are_counted_once(tmp_path: Path) -> None:
    rows = [*ROWS, *ROWS]
    random.Random(1).shuffle(rows)
    (tmp_path / "log").write_bytes(_lines(rows))
    assert _counted(_audit(tmp_path)) == (len(TWO), len(TWO))


def test_calls_without_an_id_or_with_one_that_is_used_again_are_all_counted(tmp_path: Path) -> None:
    """LiteLLM left the id empty for some streams (BerriAI/litellm#6633); a stub may answer with one id for ever."""
    (tmp_path / "1").write_bytes(_lines([row | {"request_id": ""} for row in ROWS]))
    (tmp_path / "2").write_bytes(_lines([row | {"request_id": "chatcmpl-123"} for row in ROWS]))
    assert _counted(_audit(tmp_path)) == (2 * len(TWO), 0)


def test_buckets_are_compared_by_whole_files(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_bytes(openai_usage(TWO))
    (tmp_path / "2.json.gz").write_bytes(gzip.compress(openai_usage(TWO)))
    (tmp_path / "3.json").write_bytes(openai_usage(TWO[:10]))
    calls, again = _counted(_audit(tmp_path))
    assert (calls, again) == (len(TWO) + 10, 0)


def test_files_that_only_begin_alike_are_two_files(tmp_path: Path) -> None:
    """Longer than what is compared first."""
    blank = [row | {"request_id": "", "messages": "x" * 2_000} for row in ROWS]
    (tmp_path / "1").write_bytes(_lines(blank))
    (tmp_path / "2").write_bytes(_lines([*blank[:-1], blank[-1] | {"prompt_tokens": 1}]))
    assert _counted(_audit(tmp_path)) == (2 * len(TWO), 0)


def test_buckets_beside_single_calls_of_one_model_are_told(tmp_path: Path) -> None:
    """They may be of the same traffic, and nothing in them says so."""
    (tmp_path / "calls.jsonl").write_bytes(TEXT)
    told = "counted twice; give one of them"
    assert not any(told in note for note in notes(_audit(tmp_path)))
    (tmp_path / "usage.json").write_bytes(openai_usage(TWO))
    assert any(told in note for note in notes(_audit(tmp_path)))
