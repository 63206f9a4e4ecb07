"""Failure: the message and the exit status of a command that fails.

The core writes its messages for Python: `encoding='cp1252'`.  Here each argument that is also an option of the command line is written as one:
`--encoding cp1252`.  A field of the Job stays as it is: the user's Job is written in Python.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import typer

from keld.cli.output import printable
from keld.errors import KeldError


class Exit(IntEnum):
    """The exit status of a command."""

    OK = 0  # done; of a job run: every row is answered
    ERROR = 1  # any other error
    REFUSED = 2  # refused before anything was sent; also wrong options
    SOME_FAILED = 3  # the job run is over, and some of its rows have no answer
    WAITING = 4  # with --no-wait: the job run is not over; the same command continues
    INTERRUPTED = 130  # Ctrl-C; the same command continues


_LITERAL = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\{[^{}]*\}|True"""
_ARGUMENT = re.compile(rf"(?<![\w.'/-])(types|encoding|delimiter|quote|partition|sink|source|force)=(?:({_LITERAL})|(?=[\s,.;:)]|$))")


def fail(message: str, status: Exit) -> NoReturn:
    """Prints a message on standard error and exits."""
    typer.echo(printable(message), err=True)
    raise SystemExit(int(status))


def fail_with(problem: KeldError, status: Exit) -> NoReturn:
    """Prints an error on standard error and exits."""
    fail(f"{type(problem).__name__}: {in_options(str(problem))}", status)


@contextmanager
def refusals(status: Exit = Exit.REFUSED) -> Iterator[None]:
    """Prints an error of Keld's in one line, without a traceback, and exits with `status`."""
    try:
        yield
    except KeldError as problem:
        fail_with(problem, status)


def in_options(message: str) -> str:
    """A message with the arguments of Python's verbs as the options of the command line.

    >>> in_options("Declare what it is, e.g. encoding='cp1252', or save it as UTF-8.")
    'Declare what it is, e.g. --encoding cp1252, or save it as UTF-8.'
    >>> in_options("Declare it: types={'amount': 'decimal(12,2)'}.")
    "Declare it: --types 'amount=decimal(12,2)'."
    """
    return _ARGUMENT.sub(_option, message)


def _option(found: re.Match[str]) -> str:
    name, literal = found[1], found[2]
    if literal is None or literal == "True":
        return f"--{name}"
    return " ".join(f"--{name} {_quoted(word)}" for word in _words(literal)) or f"--{name}"


def _quoted(word: str) -> str:
    """A word as a shell reads it; a delimiter in quotes, although a comma needs none: `--delimiter ,, or` cannot be read."""
    quoted = shlex.quote(word)
    return f"'{word}'" if quoted == word and len(word) == 1 and not word.isalnum() else quoted


def _words(literal: str) -> list[str]:
    """The values of an option for a Python literal; empty if it cannot be read."""
    try:
        value: Any = ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        return []
    if isinstance(value, dict):
        return [f"{key}={item}" for key, item in value.items()]
    return [{"\t": r"\t"}.get(value, value)]
