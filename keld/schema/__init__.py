"""Schema: what an answer must look like: an output type -> Arrow columns, and the strict decoder of answers.

On the road: `job` -> **`schema`** -> `request` (asks for it) -> ... -> `answer` (reads it).  Pure.
A schema is compiled once to a tree of nodes: the Arrow type of a value, and the msgspec type that parses and checks it
in one pass (3 times as fast as a `json.loads` loop).  What msgspec cannot express (maps, unions, recursion) is kept as
`msgspec.Raw`, checked by a reader of its own, and becomes a column of JSON text, as the model wrote it.
A rule that is not checked is named in `OutputSchema.unchecked`.  A reason names the path and the rule, never the value:
answers may be private.

    output       an output type -> OutputSchema: its columns and its decoder
    compiler     a JSON Schema -> nodes
    node         one place of a compiled schema, and how its values become an array
    variant      nodes that msgspec alone cannot check
    meaning      what the declaration says of the columns, in words for people
    document     an answer's text -> its value
    codec        text and vectors
    reference    what a `$ref` points to, what an `allOf` means in sum, which types are implied
    format       the check of a text with a `format`
    definition   the names of a Pydantic model's definitions, without the modules of their classes
    hint         what a Pydantic model knows and its JSON Schema does not say
    subset       a JSON Schema -> the form of it that one service takes
"""

from keld.job import Embedding
from keld.schema.codec import Decoder
from keld.schema.meaning import AnswerColumn, answer_columns
from keld.schema.node import JsonSchema
from keld.schema.output import OutputSchema, output_schema
from keld.schema.reference import inlined
from keld.schema.subset import Subset

__all__ = ["AnswerColumn", "Decoder", "Embedding", "JsonSchema", "OutputSchema", "Subset", "answer_columns", "inlined", "output_schema"]
