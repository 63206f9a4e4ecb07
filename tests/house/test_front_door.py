"""The front door: every type that a user can meet has a public name, and every error says its facts in fields."""

import ast
import copy
import inspect
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, cached_property
from pathlib import Path
from typing import Any, get_args

import pytest

import keld
from keld import (
    AccessRefused,
    Account,
    CeilingTooLow,
    DeadlinePassed,
    InvalidJob,
    Job,
    Keld,
    KeldError,
    PriceUnknown,
    ProviderError,
    SourceError,
    UnknownJobRun,
)

# Members of `Keld` through which the house itself goes; what they give is not part of the public promise.
BEHIND = {"ledger", "runner", "provider", "environment", "overview"}
PUBLIC = {name: getattr(keld, name) for name in keld.__all__ if name != "__version__"}
CLASSES = {name: found for name, found in PUBLIC.items() if isinstance(found, type)}


@cache
def _imported_names(module: str) -> dict[str, Any]:
    """What a module imports of ours, also what it imports for type checkers only."""
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[module]))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("keld"):
            home = __import__(node.module or "", fromlist=["_"])
            found |= {alias.asname or alias.name: getattr(home, alias.name) for alias in node.names if hasattr(home, alias.name)}
    return found


def _ours(annotation: Any, module: str) -> Iterator[type]:
    """The classes of ours in an annotation, whether it is kept as text or as an object."""
    if isinstance(annotation, str):
        names = vars(sys.modules[module]) | _imported_names(module)
        for word in set(re.findall(r"[A-Za-z_]\w*", annotation)):
            if word in names:
                yield from _ours(names[word], module)
    elif isinstance(annotation, type) and annotation.__module__.partition(".")[0] == "keld":
        yield annotation
    else:
        for argument in get_args(annotation):
            for part in argument if isinstance(argument, list) else [argument]:
                yield from _ours(part, module)


def _verbs(kind: type) -> Iterator[Callable[..., Any]]:
    for name, member in vars(kind).items():
        if (name.startswith("_") and name != "__init__") or (kind is Keld and name in BEHIND):
            continue
        member = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        member = member.fget if isinstance(member, property) else member.func if isinstance(member, cached_property) else member
        if inspect.isfunction(member):
            yield member


def _shown(found: Any) -> Iterator[type]:
    """Every type of ours that a public name takes or gives: as a field, an argument or a result."""
    if inspect.isfunction(found):
        functions = [found]
    else:
        for annotation in vars(found).get("__annotations__", {}).values():
            yield from _ours(annotation, found.__module__)
        functions = list(_verbs(found))
    for function in functions:
        for annotation in inspect.get_annotations(function).values():
            yield from _ours(annotation, function.__module__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_type_that_a_public_name_takes_or_gives_is_public(name: str) -> None:
    """Otherwise a user who annotates a variable with it has to import from a file that may move."""
    hidden = {kind.__name__ for kind in _shown(PUBLIC[name]) if PUBLIC.get(kind.__name__) is not kind}
    assert hidden == set()


def test_every_error_is_public() -> None:
    errors = [kind for kind in vars(sys.modules["keld.errors"]).values() if isinstance(kind, type) and issubclass(kind, KeldError)]
    assert {kind.__name__ for kind in errors} <= set(keld.__all__)


def test_every_error_that_a_verb_documents_is_public() -> None:
    for kind in CLASSES.values():
        for function in _verbs(kind):
            raised = re.search(r"^ +Raises:\n((?: +.*\n?)+)", function.__doc__ or "", re.MULTILINE)
            named = (
                re.findall(r"\b([A-Z]\w+(?:Error|Refused|Unreachable|Unknown|TooLow|Passed|Lost|Unavailable)|InvalidJob)\b", raised[1])
                if raised
                else []
            )
            assert set(named) <= set(keld.__all__), function.__qualname__


def test_each_public_name_says_what_it_is() -> None:
    assert [
        name for name, found in PUBLIC.items() if not (found.__doc__ or "").strip() or (found.__doc__ or "").startswith(f"{name}(")
    ] == []


def test_the_front_door_lists_its_names() -> None:
    assert set(keld.__all__) <= set(dir(keld))


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_ceiling_that_is_too_low_says_how_much_is_needed() -> None:
    error = CeilingTooLow("it costs more", needed_usd=Decimal("41.2"), ceiling_usd=Decimal(30), job="labels", partition="monday")
    assert (error.needed_usd, error.ceiling_usd, error.job, error.partition) == (Decimal("41.2"), Decimal(30), "labels", "monday")
    assert error.permanent
    assert not error.retryable


@pytest.mark.parametrize(
    "error",
    [
        InvalidJob("no", field="models", job="labels"),
        CeilingTooLow("no", needed_usd=Decimal(2), ceiling_usd=Decimal(1)),
        DeadlinePassed("no", deadline_at=datetime(2026, 11, 20, tzinfo=UTC)),
        PriceUnknown("no", models=["openai:m"]),
        AccessRefused("no", account="openai", status=401),
        UnknownJobRun("no", run_id="a"),
        SourceError("no", source="/in.csv"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_facts_when_it_is_pickled_or_copied(error: KeldError) -> None:
    """Worker processes and orchestrators send errors to each other so."""
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert (str(twin), vars(twin)) == (str(error), vars(error))


def test_a_wrong_declaration_names_its_field() -> None:
    with pytest.raises(InvalidJob) as refused:
        Job(name="labels", key="id", prompt="{body}", models="openai:m", ceiling_usd=-1)
    assert (refused.value.field, refused.value.job) == ("ceiling_usd", "labels")


def test_a_deadline_in_the_past_is_a_field_in_utc(tmp_path: Path) -> None:
    job = Job(name="labels", key="id", prompt="{body}", models="openai:m", deadline=datetime(2026, 11, 19, 9, tzinfo=UTC))
    with Keld(home=tmp_path, clock=lambda: datetime(2026, 11, 20, tzinfo=UTC)) as keld_, pytest.raises(DeadlinePassed) as refused:
        keld_.plan(job, [{"id": 1, "body": "a"}], partition="monday")
    assert refused.value.deadline_at == datetime(2026, 11, 19, 9, tzinfo=UTC)


def test_the_least_ceiling_that_an_error_names_is_enough(tmp_path: Path) -> None:
    def job(ceiling_usd: Decimal) -> Job:
        return Job(name="labels", key="id", prompt="{body}", models="openai:gpt-5-mini", ceiling_usd=ceiling_usd)

    with Keld(home=tmp_path, accounts={"openai": Account(kind="openai", api_key=lambda: "k")}) as keld_:
        with pytest.raises(CeilingTooLow) as refused:
            keld_.plan(job(Decimal("0.0001")), [{"id": 1, "body": "a"}], partition="monday")
        assert (refused.value.job, refused.value.partition, refused.value.ceiling_usd) == ("labels", "monday", Decimal("0.0001"))
        assert keld_.plan(job(refused.value.needed_usd), [{"id": 1, "body": "a"}], partition="monday").chosen is not None


def test_a_missing_key_names_its_account(tmp_path: Path) -> None:
    job = Job(name="labels", key="id", prompt="{body}", models="openai:gpt-5-mini", deadline=timedelta(hours=9))
    with Keld(home=tmp_path, accounts={"openai": Account(kind="openai", api_key=lambda: "")}) as keld_:
        with pytest.raises(ProviderError) as refused:
            keld_.submit(job, [{"id": 1, "body": "a"}])
        assert isinstance(refused.value, AccessRefused)
        assert refused.value.account == "openai"


def test_an_unknown_job_run_names_its_id(tmp_path: Path) -> None:
    with Keld(home=tmp_path) as keld_, pytest.raises(UnknownJobRun) as unknown:
        keld_.status("no-such-id")
    assert unknown.value.run_id == "no-such-id"
