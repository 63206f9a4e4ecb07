"""Jobs: what is asked of every ticket, and on which terms.  Nothing here depends on Dagster.

tickets -> triage -> (bookkeeping dropped) -> embeddings
"""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from example_project.models import EMBEDDINGS, PARAMS, PRICES, TRIAGE
from keld import Embedding, Job


class Triage(BaseModel):
    """One answer: its fields become columns."""

    category: Literal["billing", "bug", "account", "question"]
    urgency: Annotated[int, Field(ge=1, le=5, description="5: the customer cannot work")]
    sentiment: Literal["angry", "neutral", "happy"]


triage = Job(
    name="ticket_triage",
    key="ticket_id",
    system="You triage support tickets of a software company. Judge only what the customer wrote.",
    prompt="Customer tier: {tier}\nChannel: {channel}\n\n{body}",
    output_type=Triage,
    models=TRIAGE,
    prices=PRICES,
    deadline=timedelta(hours=9),  # after the day has ended: ready at nine in the morning
    ceiling_usd=5,
    max_output_tokens=400,
    params=PARAMS,
    tags={"team": "support", "category": "classification"},
)

# The second step asks with the answers of the first: so a search finds a ticket by its topic, not only by its words.
embeddings = Job(
    name="ticket_embeddings",
    key="ticket_id",
    prompt="{category}, urgency {urgency}: {body}",
    output_type=Embedding(dimensions=256),
    models=EMBEDDINGS,
    deadline=timedelta(hours=24),
    ceiling_usd=1,
    tags={"team": "search", "category": "embedding"},
)
