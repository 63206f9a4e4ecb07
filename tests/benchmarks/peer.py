"""Peer: the same partition through another tool, as its documentation shows it, each run in an environment of its own.

python -m tests.benchmarks.peer NAME DIRECTORY        (the server's address in the environment)

All of them read the same Parquet file, ask the same requests of the same server, and end with the same: a Parquet file of the rows with their answers.
What a tool does not do (build the requests, cut them at the provider's limits, read the answers, join them) is written here as its user would.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.benchmarks.process import measured
from tests.benchmarks.ticket import PROMPT, SCHEMA, SYSTEM

_MODEL = "gpt-5-mini"
_ROWS_MOST = 50_000  # of a batch at OpenAI
_POLL_S = 0.05

PACKAGES: dict[str, tuple[str, ...]] = {
    "script": ("openai==3.52.0", "pandas==3.1.1", "pyarrow==26.0.1"),
    "openai-batch": ("openai-batch==0.3.4", "httpx==0.28.1", "pandas==3.1.1", "pyarrow==26.0.1"),
    "litellm": ("litellm==1.106.0", "pandas==3.1.1", "pyarrow==26.0.1"),
    "airflow": ("apache-airflow-providers-openai==2.2.0", "pandas==3.1.1", "pyarrow==26.0.1"),
    "langbatch": ("langbatch==0.1.2", "pandas==3.1.1", "pyarrow==26.0.1"),
    "curator": ("bespokelabs-curator==0.1.31", "pandas==3.1.1", "pyarrow==26.0.1"),
}
"""What is installed for each, with the versions that were measured."""

ROWS_MOST = {"langbatch": 10_000, "curator": 2_000}
"""The slow ones are measured at fewer rows; their memory grows with the rows."""


def script(folder: Path) -> None:
    """pandas and the SDK, as in OpenAI's cookbook."""
    from openai import OpenAI

    client, lines = OpenAI(), []
    for path in _files(folder):
        with path.open("rb") as file:
            uploaded = client.files.create(file=file, purpose="batch")
        batch = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
        batch = _waited(lambda found=batch: client.batches.retrieve(found.id))  # type: ignore[misc]
        lines += client.files.content(batch.output_file_id).text.splitlines()
    _enrich(folder, lines)


def openai_batch(folder: Path) -> None:
    from openai_batch import Batch
    from openai_batch.providers import Provider

    host = Provider(name="bench", base_url=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"])
    lines: list[str] = []
    rows = _bodies(folder)
    n, pending = 0, next(rows, None)
    while pending is not None:
        first = n
        batch = Batch(submission_input_file=folder / f"in-{n}.jsonl", output_file=folder / f"out-{n}.jsonl", provider=host)
        while pending is not None:
            try:
                batch.add_to_batch(**pending)
            except ValueError:  # its limit of 100 MB or 50,000 rows: the user begins another one
                break
            n, pending = n + 1, next(rows, None)
        # Version 0.3.4 reads the file that it has just closed; a path it opens itself.
        batch.submission_input_file.close()
        batch.submission_input_file, batch._should_close = folder / f"in-{first}.jsonl", False
        batch.submit()
        _waited(batch.status)
        batch.download()
        for line in (folder / f"out-{first}.jsonl").read_text().splitlines():
            found = json.loads(line)
            found["custom_id"] = f"row-{first + int(found['custom_id'].rpartition('-')[2]) - 1:08d}"
            lines.append(json.dumps(found))
    _enrich(folder, lines)


def litellm(folder: Path) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a price list at import
    import litellm as tool

    lines, said = [], {"custom_llm_provider": "openai"}
    for path in _files(folder):
        with path.open("rb") as file:
            uploaded = tool.create_file(file=file, purpose="batch", **said)
        batch = tool.create_batch(completion_window="24h", endpoint="/v1/chat/completions", input_file_id=uploaded.id, **said)
        batch = _waited(lambda found=batch: tool.retrieve_batch(batch_id=found.id, **said))  # type: ignore[misc]
        lines += tool.file_content(file_id=batch.output_file_id, **said).text.splitlines()
    _enrich(folder, lines)


def airflow(folder: Path) -> None:
    """The hook of its provider package, which uploads, creates and waits; its user builds and collects."""
    os.environ["AIRFLOW_HOME"] = str(folder / "airflow")
    extra = {"openai_client_kwargs": {"base_url": os.environ["OPENAI_BASE_URL"]}}
    os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"] = json.dumps({"conn_type": "openai", "password": "benchmark", "extra": extra})
    from airflow.providers.openai.hooks.openai import OpenAIHook

    hook, lines = OpenAIHook(), []
    for path in _files(folder):
        uploaded = hook.upload_file(file=str(path), purpose="batch")
        batch = hook.create_batch(file_id=uploaded.id, endpoint="/v1/chat/completions")
        hook.wait_for_batch(batch.id, wait_seconds=_POLL_S)
        lines += hook.conn.files.content(hook.get_batch(batch.id).output_file_id).text.splitlines()
    _enrich(folder, lines)


def langbatch(folder: Path) -> None:
    from langbatch import chat_completion_batch

    lines = []
    for path in _files(folder):
        batch = chat_completion_batch(str(path), provider="openai")
        batch.start()
        _waited(lambda found=batch: type("Seen", (), {"status": found.get_status()}))  # type: ignore[misc]
        answered, _ = batch.get_results()
        for one in answered:
            body = {"choices": [{"message": {"content": one["choices"][0]["message"]["content"]}}]}
            lines.append(json.dumps({"custom_id": one["custom_id"], "response": {"body": body}}))
    _enrich(folder, lines)


def curator(folder: Path) -> None:
    os.environ |= {"CURATOR_CACHE_DIR": str(folder / "curator"), "TELEMETRY_ENABLED": "false", "CURATOR_DISABLE_RICH_DISPLAY": "1"}
    import pandas as pd
    from bespokelabs import curator as tool
    from datasets import Dataset

    class Label(tool.LLM):  # type: ignore[misc]
        def prompt(self, row: dict[str, Any]) -> str:
            return PROMPT.format(body=row["body"])

        def parse(self, row: dict[str, Any], answer: str) -> dict[str, Any]:
            return {**row, **json.loads(answer)}

    rows = Dataset.from_pandas(pd.read_parquet(folder / "tickets.parquet"))
    asked = Label(model_name="gpt-4o-mini", system_prompt=SYSTEM, batch=True, backend="openai", backend_params={"batch_check_interval": 1})
    answered = asked(rows)
    getattr(answered, "dataset", answered).to_parquet(str(folder / "enriched.parquet"))


def _bodies(folder: Path) -> Iterator[dict[str, Any]]:
    import pandas as pd

    shape = {"type": "json_schema", "json_schema": {"name": "Label", "strict": True, "schema": SCHEMA}}
    for row in pd.read_parquet(folder / "tickets.parquet").itertuples():
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT.format(body=row.body)}]
        yield {"model": _MODEL, "max_completion_tokens": 1024, "messages": messages, "response_format": shape}


def _files(folder: Path) -> list[Path]:
    """Input files of at most 50,000 rows, as a user writes them for the tools that take files."""
    paths: list[Path] = []
    with ExitStack() as files:
        for n, body in enumerate(_bodies(folder)):
            if n % _ROWS_MOST == 0:
                paths.append(folder / f"in-{n}.jsonl")
                file = files.enter_context(paths[-1].open("w"))
            file.write(json.dumps({"custom_id": f"row-{n:08d}", "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n")
    return paths


def _waited(look: Callable[[], Any]) -> Any:
    while (found := look()).status != "completed":
        time.sleep(_POLL_S)
    return found


def _enrich(folder: Path, lines: Iterable[str]) -> None:
    """The rows with their answers, joined by position."""
    import pandas as pd

    answers: dict[int, dict[str, Any]] = {}
    for line in lines:
        found = json.loads(line)
        answers[int(found["custom_id"].rpartition("-")[2])] = json.loads(found["response"]["body"]["choices"][0]["message"]["content"])
    rows = pd.read_parquet(folder / "tickets.parquet")
    joined = rows.join(pd.DataFrame.from_dict(answers, orient="index"))
    assert joined.urgency.notna().all()
    joined.to_parquet(folder / "enriched.parquet", compression="zstd")


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    measured(lambda: getattr(importlib.import_module("__main__"), name.replace("-", "_"))(folder))
