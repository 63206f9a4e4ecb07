"""`python -m tests.faults` prints FAULTS.md."""

from .case import document

print(document(), end="")
