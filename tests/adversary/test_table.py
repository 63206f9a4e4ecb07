"""The table: each thing that the other side may do, at each shape, and what must come of it (see `case`)."""

from collections.abc import Iterator

import pytest

from tests.adversary.case import CASES, CLOUDS, Case, every_reply, played
from tests.adversary.play import impatient

pytestmark = pytest.mark.filterwarnings("ignore")
_EVERY, _EVERY_OF_CLOUDS = 5, 9  # one in so many cases is in the fast suite


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    with impatient():
        yield


def cases() -> list[object]:
    """Every case at each of its shapes; one in some in the fast suite."""
    both = [(case, shape) for case in CASES for shape in case.on]
    return [
        pytest.param(case, shape, id=f"{case} - {shape}", marks=_marks(slow=n % (_EVERY_OF_CLOUDS if shape in CLOUDS else _EVERY) != 0))
        for n, (case, shape) in enumerate(both)
    ]


def _marks(*, slow: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if slow else []


@pytest.mark.share(3)
@pytest.mark.parametrize(("case", "shape"), cases())
def test_what_the_other_side_does_loses_no_row_and_buys_none_twice_untold(case: Case, shape: str) -> None:
    ended = played(case, shape)
    assert not ended.faults, ended.row


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("at", ["create", "get", "list", "upload", "size", "download", "cancel", "delete"])
@pytest.mark.parametrize("shape", ["openai", "anthropic"])
def test_any_reply_to_any_call_loses_no_row_and_buys_none_twice_untold(at: str, shape: str) -> None:
    """Each of some thirty replies, whether the call was carried out or not."""
    cases = [case for case in every_reply() if case.faults[-1].at == at and shape in case.on]
    wrong = [ended.row for ended in (played(case, shape) for case in cases) if ended.faults]
    assert not wrong, "\n".join(wrong)
