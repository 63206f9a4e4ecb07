"""`python -m tests.faults` prints docs/reference/faults.md; `make faults` writes it."""

from .case import document

print(document(), end="")
