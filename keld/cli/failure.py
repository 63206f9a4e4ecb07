"""Failure: what is said when a command fails, in the words of the command line, and the exit status.

The core writes its messages for Python: `encoding='cp1252'`.  Here an argument that the command line has, too, becomes its option:
`--encoding cp1252`.  What is a field of the Job stays as it is: the user's Job is written in Python.
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

from keld.errors import KeldError


class Exit(IntEnum):
    """The exit status of a command."""

    OK = 0  # done; of a job run: every row is answered
    ERROR = 1  # any other error
    REFUSED = 2  # refused before anything was sent; also wrong options
    SOME_FAILED = 3  # the job run is over, and some of its rows have no answer
    INTERRUPTED = 130  # Ctrl-C; the same command continues


_LITERAL = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\{[^{}]*\}|True"""
_ARGUMENT = re.compile(rf"(?<![\w.'/-])(types|encoding|delimiter|quote|partition|sink|source|force)=(?:({_LITERAL})|(?=[\s,.;:)]|$))")


def fail(message: str, status: Exit) -> NoReturn:
    """Says a message on standard error and leaves."""
    typer.echo(message, err=True)
    raise SystemExit(int(status))


def fail_with(problem: KeldError, status: Exit) -> NoReturn:
    """Says an error and leaves."""
    fail(f"{type(problem).__name__}: {in_options(str(problem))}", status)


@contextmanager
def refusals(status: Exit = Exit.REFUSED) -> Iterator[None]:
    """An error of Keld's is said in a line, without a traceback, and the command leaves with `status`."""
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
    return " ".join(f"--{name} {shlex.quote(word)}" for word in _words(literal)) or f"--{name}"


def _words(literal: str) -> list[str]:
    """What is typed after an option for a Python literal; nothing if it cannot be read."""
    try:
        value: Any = ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        return []
    if isinstance(value, dict):
        return [f"{key}={item}" for key, item in value.items()]
    return [{"\t": r"\t"}.get(value, value)]
