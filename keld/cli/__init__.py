"""Command line: `keld plan | run | status | watch | cancel | reconcile | gc | prices | spend | emulate`.

An edge: it reads words, calls one verb of `Keld`, prints a view.  Exit status: 0 every row answered, 3 some rows were not (they
are written, with reasons), 2 refused before anything was sent, 1 any other error, 130 interrupted (the job run can be resumed).
`--json` prints one JSON document on standard output and nothing else there; messages go to standard error.

    command      one function a command
    option       the words of a command: options that several have, and what their text means
    declaration  where the user's Job is, and how it is loaded
    progress     a job run advanced to its end, shown on the way
    failure      what is said when a command fails, in the words of the command line, and the exit status
    output       tables, JSON and CSV on standard output
"""

from keld.cli.command import app, main

__all__ = ["app", "main"]
