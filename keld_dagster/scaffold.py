"""Scaffold: the files that `dg scaffold defs keld_dagster.KeldBatchComponent <name>` writes: `defs.yaml` and `prompt.md`.

Beside `component`.  The YAML is written as text, not dumped, because its comments are what a person reads first.
"""

from __future__ import annotations

import json

import dagster as dg
from pydantic import BaseModel, Field

_YAML = """\
type: {type}

attributes:
  name: {name}
  source: {source} # the key of an asset; or a path: s3://lake/tickets/{{partition}}.parquet
  key: {key} # the column that identifies a row
  prompt: {{path: {prompt}}}
  columns: # of an answer; or output_type: the import path of a Pydantic model
    category: [billing, bug, account, other]
    urgent: {{type: boolean}}
  models: {models}
  deadline: {deadline} # after the partition's end
  ceiling_usd: {ceiling}
  resource: {{}} # the defaults; remove it if the project defines the resource `keld` elsewhere
  asset:
    partitions_def: {{type: daily, start_date: "{start}"}} # those of the source, with its timezone; remove it if it has none
"""
_PROMPT = "Classify this support ticket:\n\n{body}\n"


class ScaffoldParams(BaseModel):
    """The options of the command."""

    source: str = Field(default="tickets", description="The asset whose rows are asked")
    key: str = Field(default="ticket_id", description="The column that identifies a row")
    models: list[str] = Field(default=["openai:gpt-5-mini"], description="The acceptable models")
    deadline: str = "9h"
    ceiling_usd: str = "40"
    start_date: str = "2026-01-01"


class KeldScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes a component that loads as it is, once its source exists."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        if request.scaffold_format == "python":
            dg.scaffold_component(request, {})
            return
        folder = request.target_path.parent if request.append else request.target_path
        file = request.target_path if request.append else folder / "defs.yaml"
        given = request.params
        suffix = f"_{file.read_text(encoding='utf-8').count('type:')}" if request.append else ""
        prompt = f"prompt{suffix}.md"
        text = _YAML.format(
            type=request.type_name,
            name=folder.name + suffix,
            source=given.source,
            key=given.key,
            prompt=prompt,
            models=json.dumps(given.models),
            deadline=given.deadline,
            ceiling=given.ceiling_usd,
            start=given.start_date,
        )
        with file.open("a" if request.append else "w", encoding="utf-8") as out:
            out.write(f"---\n{text}" if request.append else text)
        (folder / prompt).write_text(_PROMPT, encoding="utf-8")
