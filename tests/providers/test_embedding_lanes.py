"""Embeddings have no flex lane anywhere, whatever rates a job gives: the plan does not choose it."""

from datetime import timedelta
from pathlib import Path

import pytest

from keld import AzureAccount, Embedding, Job, Keld
from keld.price import Lane


@pytest.mark.parametrize("model", ["azure:text-embedding-3-small", "openai:text-embedding-3-small", "gemini:gemini-embedding-001"])
def test_embeddings_are_not_planned_in_the_flex_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(name, "k")
    job = Job(
        name="vectors",
        key="id",
        prompt="{body}",
        output_type=Embedding(dimensions=256),
        models=model,
        deadline=timedelta(minutes=30),  # too short for a batch
        prices={model: {"input": 1}},  # a job's rate holds for every lane
    )
    with Keld(home=tmp_path, accounts={"azure": AzureAccount(base_url="https://resource.example")}) as keld:
        plan = keld.plan(job, [{"id": 1, "body": "The invoice is wrong."}], partition="p")
    assert plan.chosen is not None
    assert plan.chosen.lane is Lane.STANDARD
