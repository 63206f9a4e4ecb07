"""`python -m tests.adversary` prints the table as it stands; with `replies`, of every reply to every call; more words: only cases that have them."""

import os
import sys

os.environ.setdefault(
    "SSL_CERT_DIR", os.path.dirname(__file__)
)  # nothing here speaks TLS, and to read the machine's certificates takes its time

from tests.adversary.case import CASES, HEAD, every_reply, played
from tests.adversary.play import impatient

words = sys.argv[1:]
cases = [*every_reply()] if "replies" in words else list(CASES)
words = [word for word in words if word != "replies"]
wrong = total = 0
print(HEAD, flush=True)
with impatient():
    for case in cases:
        if all(word in str(case) for word in words):
            for shape in case.on:
                ended = played(case, shape)
                total, wrong = total + 1, wrong + bool(ended.faults)
                print(ended.row, flush=True)
print(f"\n{total} played, {wrong} not as they must be.")
