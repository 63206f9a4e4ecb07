"""What a declaration says of the columns of an answer, in words."""

from enum import Enum
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from keld import AnswerColumn, Embedding, answer_columns


class Mood(Enum):
    """How the customer feels."""

    CALM = "calm"
    ANGRY = "angry"


class Answer(BaseModel):
    category: Literal["billing", "bug"] = Field(description="What it is about.")
    urgency: Annotated[int, Field(ge=1, le=5)]
    share: Annotated[float, Field(gt=0, le=1)]
    language: str | None = Field(default=None, max_length=2)
    mood: Mood | None
    tags: list[str] = Field(min_length=1, max_length=3)


def test_fields_are_told_with_the_user_s_description_and_their_rules() -> None:
    assert answer_columns(Answer, "x_") == (
        AnswerColumn(name="x_category", description="What it is about.", rules=("one of billing, bug",)),
        AnswerColumn(name="x_urgency", rules=("from 1 to 5",)),
        AnswerColumn(name="x_share", rules=("at most 1", "above 0")),
        AnswerColumn(name="x_language", rules=("at most 2 characters",)),
        AnswerColumn(name="x_mood", rules=("one of calm, angry",)),
        AnswerColumn(name="x_tags", rules=("from 1 to 3 items",)),
    )


def test_a_long_enumeration_is_cut() -> None:
    schema = {"type": "object", "properties": {"code": {"type": "string", "enum": [f"c{n}" for n in range(100)]}}}
    [column] = answer_columns(schema)
    assert column.rules[0].endswith("c11 and 88 more")


def test_text_and_vectors_have_words_of_their_own() -> None:
    [text], [vector] = answer_columns(str), answer_columns(Embedding(dimensions=256))
    assert (text.name, vector.name) == ("answer", "embedding")
    assert vector.description == "The embedding: 256 numbers."
