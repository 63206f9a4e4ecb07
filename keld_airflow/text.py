"""Text: a prompt or a system prompt as a field of an operator: read from a file, rendered once for its task, hidden from what Airflow stores.

Jinja sees what the Dag's author wrote, never a row: it is run before any row is read, and what it puts into a prompt is no template of columns,
since its braces are doubled.  Airflow stores and shows the length and a digest of a text, not the text: after rendering it may hold what a
Variable or another task gave, and Airflow's database is read by more people than the ledger.  The digest shows from run to run whether it changed.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from keld import InvalidJob

if TYPE_CHECKING:
    from airflow.sdk import DAG, Context

JINJA = "jinja"
ENGINES = ("format", JINJA)
_JINJA_FILES = (".jinja", ".jinja2", ".j2")
# One word that ends like a text file and names no column: a sentence that ends in "README.md" is a text.
_FILE = re.compile(r"[^\s{}]+\.(?:md|markdown|txt|text|prompt|jinja2?|j2)", re.IGNORECASE)
_MARKS = re.compile(r"{{|{%|{#")


class NoValue(Exception):
    """An expression of Jinja gave None."""


class Text:
    """A text of a task, which prints as its length and a digest.

    Args:
        text: as written, or as read from its file.
        jinja: it is a template, to be rendered before use.
        columns: it is a template of columns after that, so that braces which Jinja puts in must stay braces.
        unread: it is the name of a file, which can be read only when the task is in a Dag.
    """

    def __init__(self, text: str, *, jinja: bool = False, columns: bool = False, unread: bool = False) -> None:
        self.text, self.jinja, self._columns, self.unread = text, jinja, columns, unread

    def __repr__(self) -> str:
        return f"<text: {len(self.text):,} characters, sha256 {hashlib.sha256(self.text.encode(errors='replace')).hexdigest()[:12]}>"

    def resolve(self, context: Context) -> Text:
        """The text for one task instance; Airflow calls this in place of its own rendering, which would log and store the text."""
        return Text(self._rendered(context)) if self.jinja else self

    def _rendered(self, context: Context) -> str:
        """The text as Jinja renders it with the Dag's own macros and filters; never as a Python object, whatever the Dag says.

        Raises:
            UndefinedError, NoValue: a name has no value.
            InvalidJob: it is no template.
        """
        environment: jinja2.Environment = context["dag"].get_template_env(force_sandboxed=True)
        environment = environment.overlay(finalize=_without_columns if self._columns else present)
        try:
            text = environment.from_string(self.text).render(context)
        except jinja2.UndefinedError:
            raise
        except jinja2.TemplateError as error:  # its own text quotes the line
            raise InvalidJob(_slip(error)) from None
        check_no_file(text)  # files are read before that, and their name would be the whole instruction
        return text


class TextField:
    """A field of an operator that wraps text in `Text` when it is set: what another task gave is set when Airflow renders the fields."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, task: Any, owner: type | None = None) -> Any:
        return self if task is None else task.__dict__.get(self._name)

    def __set__(self, task: Any, value: Any) -> None:
        task.__dict__[self._name] = Text(value) if isinstance(value, str) else value


def text_of(given: Any, name: str, *, dag: DAG | None, jinja: bool, columns: bool) -> Any:
    """A prompt or a system prompt as a field holds it: text, and the content of a file, as `Text`; anything else as it is.

    A file is looked for as Airflow looks for a template: beside the Dag's file and in its `template_searchpath`.

    Args:
        given: text, the name of a file, a `Path`, a function, a `Column`, another task's output.
        dag: None: the task is in no Dag yet, and the name of a file stays as it is.
        jinja: text is a template of Jinja; a file that ends in `.jinja` always is.

    Raises:
        InvalidJob: there is no such file, or it cannot be read.
    """
    if isinstance(given, os.PathLike):
        given = os.fspath(given)
        text = _read(Path(given), name)
    elif not isinstance(given, str):
        return given
    elif _FILE.fullmatch(given) is None:
        text = given
    elif dag is None:
        return Text(given, unread=True)
    elif os.path.isabs(given):
        text = _read(Path(given), name)
    else:
        text = _found(given, name, dag)
    if text is not given:
        jinja = jinja or given.endswith(_JINJA_FILES)
    return Text(text, jinja=jinja and has_marks(text), columns=columns)


def check_no_file(text: Any) -> None:
    """Passes if a text that is used as it is does not look like the name of a file.

    Raises:
        InvalidJob: it does.
    """
    if isinstance(text, str) and _FILE.fullmatch(text):
        raise InvalidJob(
            f"A prompt or a system prompt is the name of a file, {text!r}, which is not read here: not by job=, and not where a template gives the name. "
            "Nothing was sent. Give the file's name as it is to the operator's prompt= or system=, or include it: {% include 'prompts/' ~ params.file %}."
        )


def is_unread(value: Any) -> bool:
    """True if it is the name of a file that was not read yet."""
    return isinstance(value, Text) and value.unread


def has_marks(text: str) -> bool:
    """True if Jinja would render it to something else."""
    return _MARKS.search(text) is not None


def check_syntax(text: str, name: str) -> None:
    """Passes if Jinja can read a template.

    Raises:
        InvalidJob: it cannot; says in which line, and does not quote it.
    """
    try:
        SandboxedEnvironment(extensions=["jinja2.ext.do"]).parse(text)
    except jinja2.TemplateError as error:
        raise InvalidJob(f"{name}: {_slip(error)}") from None


def _slip(error: jinja2.TemplateError) -> str:
    line = f" in line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
    return (
        f"a text is no template of Jinja{line}: {error.message or type(error).__name__}. Nothing was sent. "
        "Where braces are meant as they are, write {% raw %}...{% endraw %}."
    )


def present(value: Any) -> Any:
    """What an expression of Jinja gave; Jinja itself would print a missing one as "None", into a prompt, a partition's key or a file's name.

    In a Dag with `template_undefined=jinja2.Undefined` a name that nobody has given is an empty text there, and half of a key is another partition.

    Raises:
        NoValue: it gave None.
        UndefinedError: it names what is not there.
    """
    if value is None:
        raise NoValue
    if isinstance(value, jinja2.Undefined):
        value._fail_with_undefined_error()  # what Jinja's own strict kind does when it is printed
    return value


def _without_columns(value: Any) -> str:
    return str(present(value)).replace("{", "{{").replace("}", "}}")


def _read(path: Path, name: str) -> str:
    try:
        return _trimmed(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidJob(f"{name}={str(path)!r} is the name of a file, which cannot be read: {why}. Nothing was sent.") from None


def _found(file: str, name: str, dag: DAG) -> str:
    environment: jinja2.Environment = dag.get_template_env(force_sandboxed=True)
    try:
        assert environment.loader is not None
        return _trimmed(environment.loader.get_source(environment, file)[0])
    except (jinja2.TemplateNotFound, UnicodeDecodeError, OSError) as error:
        places = ", ".join([dag.folder, *(dag.template_searchpath or ())])
        why = f"there is none in {places}" if isinstance(error, jinja2.TemplateNotFound) else "it cannot be read as UTF-8"
        raise InvalidJob(
            f"{name}={file!r} is the name of a file, and {why}. Nothing was sent. Correct the name, put the file there, or name its folder in the "
            "Dag's template_searchpath; if it is the text itself, end it with a blank."
        ) from None


def _trimmed(text: str) -> str:
    """Without a byte order mark and the line end that editors write after the last line, as Jinja does it."""
    return text.removeprefix("\ufeff").removesuffix("\n")
