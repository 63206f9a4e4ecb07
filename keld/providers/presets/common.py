"""Common: what several presets share.

Below the other presets.
"""

from __future__ import annotations

from keld.providers.fault import Codes, Meaning

# Refused before any work, by their codes, and so not paid: Anthropic's 529, and Groq's 498 for a flex lane without capacity.  Gateways forward both.
NOT_DONE: Codes = {(None, "overloaded_error"): Meaning.NOT_DONE, (None, "capacity_exceeded"): Meaning.NOT_DONE}
LINE_BYTES = 10_000_000  # no limit of one line is documented; a row above 10 MB is taken for a mistake
