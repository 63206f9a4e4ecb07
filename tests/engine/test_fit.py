"""Which of the acceptable models can be asked: the others are left out and told, before anything is sent."""

import pytest
from rich.console import Console

from keld import Embedding, Keld
from keld.emulator import Emulator
from keld.errors import SchemaError
from keld.view import plan_view
from tests.support.ticket_job import anthropic, openai, run, tickets, triage

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
