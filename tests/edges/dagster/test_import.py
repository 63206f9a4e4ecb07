"""Import: what definitions that use Keld cost, each time that Dagster loads them: in the code server, and in the process of every run and step."""

import subprocess
import sys
from pathlib import Path

import keld_dagster

# Without SQLAlchemy, which Dagster's own storage loads wherever there is an instance, and without pyarrow, whose types an output type is compiled to: the
# code version of an asset has a digest of it.
HEAVY = (
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "polars",
    "upath",
    "fsspec",
    "openai",
    "anthropic",
    "httpx2",
    "genai_prices",
    "starlette",
    "uvicorn",
    "obstore",
)

DEFINITIONS = f"""
import sys
from datetime import timedelta

import dagster as dg
from pydantic import BaseModel

before = set(sys.modules)
from keld import Embedding, Job
from keld_dagster import {", ".join(keld_dagster.__all__)}


class Label(BaseModel):
    category: str


days = dg.DailyPartitionsDefinition("2026-11-01")
terms = dict(key="id", models=["anthropic:claude-haiku-4-5", "openai:gpt-5-mini"], ceiling_usd=40, deadline=timedelta(hours=9))


@dg.asset(partitions_def=days)
def tickets():
    return None


labels = build_batch_assets(Job(name="labels", prompt="Label {{body}}", output_type=Label, **terms), source=tickets)
vectors = build_batch_assets(
    Job(name="vectors", prompt="{{body}}", output_type=Embedding(256), key="id", models="openai:text-embedding-3-small"),
    source="in/{{partition}}.parquet",
    partitions_def=days,
)


@keld_assets(source=tickets, output_type=Label, **terms)
def moods(row):
    return row["body"]


resources = {{"keld": KeldResource(), "io_manager": KeldParquetIOManager(base_dir="out")}}
defs = dg.Definitions.merge(
    dg.Definitions(assets=[tickets, build_report_asset("report.html")], resources=resources), keld_definitions([labels, vectors, moods])
)
defs.get_repository_def().load_all_definitions()
print([name for name in {HEAVY!r} if name in sys.modules and name not in before])
"""


def test_definitions_that_are_only_loaded_load_no_table_library_no_sdk_and_no_http_client(tmp_path: Path) -> None:
    """Measured 2026-11-30, of CPU above `dagster`, which takes 0.6 s: 0.5 s, of it pyarrow 0.15; 0.8 s where pandas came with the IO manager."""
    file = tmp_path / "definitions.py"
    file.write_text(DEFINITIONS)
    ended = subprocess.run([sys.executable, file], capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1:] == ["[]"], ended.stderr[-3_000:]
