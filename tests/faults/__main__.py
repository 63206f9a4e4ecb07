"""`python -m tests.faults` prints docs/reference/faults.md; `make faults` writes it."""

from tests.faults.case import document

print(document(), end="")
