"""Place: where rows come from and where they go, as a Dag declares it: a path or URI, an open file system's, a function, another task's output.

Everything else is refused while the Dag is parsed: a worker would notice it only at the end, when the rows are paid for.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from typing import Any

from keld import check_path, check_sink_path, wants_partition

_DATABASE = re.compile(r"(postgres(ql)?|mysql|mssql|oracle|sqlite|snowflake|bigquery|redshift|trino|duckdb|jdbc)\b[^/]*://")
_DAG_FILE = re.compile(r"^unusual_prefix_[0-9a-f]{40}_")  # Airflow 3.3
_CONNECTION = re.compile(r"(s3a?|gcs|gs)://[^/]+@")  # as Airflow writes a connection; in other schemes this part is an account


def split_place(place: Any, name: str) -> tuple[Any, Callable[..., Any] | None]:
    """A source or sink as (place, function), of which one is None: Airflow would call a function in a templated field, and store its result.

    A `pathlib.Path`, which Airflow would not render, becomes its text.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(place, str) and _CONNECTION.match(place):
        raise ValueError(f'{name}={place!r} names a connection, which only ObjectStoragePath("{place}") opens it with. Give that.')
    if isinstance(place, str) and (database := _DATABASE.match(place)):
        raise ValueError(
            f"{name} is a {database[1]} URL, and Keld reads and writes files. Give a function, which may use any hook of Airflow's."
        )
    if place is None or isinstance(place, str) or has_file_system(place) or hasattr(place, "iter_references"):  # an XCom: known later
        return place, None
    if hasattr(place, "override"):
        raise ValueError(
            f"{name} is the task {place.__name__!r} itself. Call it, {place.__name__}(), for what it gives, or use @task.keld_batch."
        )
    if callable(place):
        _check_function(place, name)
        return None, place
    if isinstance(place, os.PathLike):
        return os.fspath(place), None
    raise ValueError(f"{name} is a {type(place).__name__}. Give a path, a URI, an ObjectStoragePath or a function.")


def _check_function(function: Callable[..., Any], name: str) -> None:
    """Passes unless calling it would only begin it: a sink that nobody awaits, or iterates over, writes nothing, and nobody would notice.

    Raises:
        ValueError: it would.
    """
    called = function if inspect.isroutine(getattr(function, "func", function)) else type(function).__call__
    lazy = inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called)
    if lazy or (name == "sink" and inspect.isgeneratorfunction(called)):
        raise ValueError(
            f"{name} is {'an asynchronous function' if lazy else 'a function that yields'}, which nobody would run to its end. Give a plain one."
        )


def check_rows(source: Any) -> None:
    """Passes if there is a source, and it is not the rows themselves: Airflow would store them in its database."""
    if source is None:
        raise ValueError("source is missing. Give a path, a URI, or a function that gives the rows.")
    if isinstance(source, list | tuple | dict) or hasattr(source, "__arrow_c_stream__"):
        raise ValueError(
            "source holds the rows themselves, which Airflow would store with the task. Give a path, a URI, or a function that gives them."
        )


def check_paths(task_id: str, source: Any, sink: Any) -> None:
    """Passes if the paths have no field but `{partition}`, Keld can write the sink, and the sink of many partitions is not one file.

    Raises:
        InvalidJob, SinkRefused, ValueError: another field, which nothing fills; a suffix without a writer; one file, which each partition would overwrite.
    """
    for place, name in ((source, "source"), (sink, "sink")):
        check_path(place, f"{task_id}: {name}")
    if not _is_rendered(sink):
        check_sink_path(sink, f"{task_id}: sink")
    one_file = isinstance(sink, str) and os.path.splitext(sink)[1] and "{" not in sink
    if one_file and wants_partition(source):
        raise ValueError(
            f"{task_id}: sink={sink!r} is one file, and source has a partition for each Dag run: each would overwrite the one before. "
            "Put {partition} into the sink's name, or give a directory that ends in /."
        )


def _is_rendered(sink: Any) -> bool:
    """True if the end of a path is still to be rendered, so that its suffix is not known while the Dag is parsed."""
    end = str(sink).replace("{partition}", "").rpartition(".")[2]
    return "{" in end or "}" in end


def name_of(source: Any) -> str | None:
    """The name of a source that is no path: a function, another task's output; None for a path, which is its own name.

    A renamed task finds its job run by this name.  Airflow imports a Dag's file under a name made of its whole path, which changes with each
    version of a bundle; only the file's own name is used here.
    """
    if hasattr(source, "iter_references"):
        return "task:" + ",".join(sorted({task.task_id for task, _ in source.iter_references()}))
    function = getattr(source, "func", source)  # of a `functools.partial`
    if not callable(function) or not hasattr(function, "__qualname__"):
        return None
    return f"function:{_DAG_FILE.sub('', function.__module__ or '')}.{function.__qualname__}"


def has_file_system(place: Any) -> bool:
    """True if it has its own file system with credentials, as an ObjectStoragePath does."""
    return hasattr(place, "protocol")
