"""Which of the acceptable models can be asked: the others are left out and told, before anything is sent."""

import pytest
from rich.console import Console

from keld import Embedding, Keld
from keld.emulator import Emulator
from keld.errors import KeldError, SchemaError
from keld.view import plan_view
from tests.support.ticket_job import PEERS, anthropic, bedrock_claude, openai, run, tickets, triage, vertex_claude

MAP = {"type": "object", "properties": {"counts": {"type": "object", "additionalProperties": {"type": "integer"}}}, "required": ["counts"]}


def test_a_model_that_cannot_take_the_schema_is_left_out_and_told(keld: Keld, emulator: Emulator) -> None:
    """While another one can, the job is asked of that one."""
    both = triage(anthropic, models=[anthropic.models, openai.models], output_type=MAP)
    plan = keld.plan(both, tickets(3))
    assert list(plan.left_out) == [anthropic.models]
    assert "`$.counts` is a map with free keys" in plan.left_out[anthropic.models]
    assert "without strict mode" in plan.notes[openai.models]
    assert {option.provider for option in plan.options} == {"openai"}
    with Console(width=400) as console, console.capture() as shown:
        console.print(plan_view(plan))
    assert f"{anthropic.models} is left out: `$.counts`" in shown.get()
    status = run(keld, emulator, both, tickets(3))
    assert (status.answered, {entry.provider for entry in emulator.bill()}) == (3, {"openai"})


def test_a_schema_that_no_model_can_take_is_refused_by_the_name_of_its_field(keld: Keld, emulator: Emulator) -> None:
    with pytest.raises(SchemaError, match=r"none of the models can be asked.*Nothing was sent.*claude-haiku-4-5: `\$\.counts` is a map"):
        keld.submit(triage(anthropic, output_type=MAP), tickets(3))
    with pytest.raises(SchemaError, match="makes no embeddings"):
        keld.plan(triage(anthropic, output_type=Embedding(dimensions=8)), tickets(3))
    assert emulator.bill() == []
    assert keld.find("triage") is None


@pytest.mark.parametrize(
    ("models", "near"),
    [
        ("openai:gpt5-mini", "openai:gpt-5-mini"),
        ("azure:gpt5-mini", "azure:gpt-5-mini"),
        ("bedrock:anthropic.claude-haiku-45", "bedrock:anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("vertex:gemini-25-flash", "vertex:gemini-2.5-flash"),
        ("gemini:gemini-2.5-flsh", "gemini:gemini-2.5-flash"),
        ("mistral:mistral-smal-latest", "mistral:mistral-small-latest"),
        ("groq:gpt-oss-20", "groq:openai/gpt-oss-20b"),
        ("opnai:gpt-5-mini", "did you mean 'openai'?"),
        ("bedrok:anything", "did you mean 'bedrock'?"),
    ],
)
def test_a_misspelled_model_or_account_is_answered_with_the_name_that_was_meant(keld: Keld, models: str, near: str) -> None:
    """In a plan and at the submission alike; the orchestrators show the same words."""
    for verb in (keld.plan, keld.submit):
        with pytest.raises(KeldError) as refused:
            verb(triage(openai, models=models), tickets(120))
        assert near in str(refused.value) and "Nothing was sent" in str(refused.value), str(refused.value)


@pytest.mark.parametrize("kind", ["anthropic", "bedrock", "vertex", "groq"])
def test_a_kind_without_embeddings_names_the_kinds_that_have_them(keld: Keld, kind: str) -> None:
    """It named a model of OpenAI, whatever clouds there are; that of Claude on Bedrock said `anthropic`."""
    models = {**{name: [peer.models] for name, peer in PEERS.items()}, "groq": ["groq:openai/gpt-oss-20b"]}[kind]
    models += {"bedrock": [bedrock_claude.models], "vertex": [vertex_claude.models]}.get(kind, [])
    for model in models:
        with pytest.raises(KeldError) as refused:
            keld.plan(triage(openai, models=model, output_type=Embedding(dimensions=256), system=None), tickets())
        said = str(refused.value).lower()
        assert f"{kind} makes no embeddings" in said and "kind gemini, openai, azure or mistral" in said, said
