"""Command line: `keld plan | run | status | watch | cancel | reconcile | gc | prices | spend | audit | report | emulate`.

An edge: it reads arguments, calls one verb of `Keld`, prints a view.  Exit status: 0 every row answered, 3 some rows were not (they
are written, with reasons), 2 refused before anything was sent, 1 any other error, 130 interrupted (the same command continues).
`--json` prints one JSON document on standard output and nothing else there; messages go to standard error.

    command      one function for each command
    audit        the command that reads the logs of other tools
    report       the command that writes the ledger as a page and as tables
    option       the options that several commands have, and how their text is read
    declaration  where the user's Job is, and how it is loaded
    progress     advances a job run to its end, and shows its progress
    failure      the message and the exit status of a command that fails
    output       tables, JSON and CSV on standard output
"""

from keld.cli import audit as _audit  # adds its command
from keld.cli.command import app, main

__all__ = ["_audit", "app", "main"]
