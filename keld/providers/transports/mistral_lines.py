"""Mistral lines: the lines of a batch job's input and of its results.

A part of the transport `mistral`; pure.
"""

from __future__ import annotations

from keld.providers.envelope import LineEnvelope


class MistralEnvelope(LineEnvelope):
    """`Envelope` of lines that name neither path nor model, since the job does; the result lines are OpenAI's."""

    def overhead_bytes(self, path: str) -> int:
        return len(b'"body":') + 50  # the braces, and the custom_id of a position of any length

    def wrap(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b'{"custom_id":"%b","body":%b}\n' % (custom_id.encode(), body)
