"""Random mixes (see `mix`): `make adversary N=20000` plays that many over the cores; a failure is shrunk and printed as the Python that plays it again.

Each test is a shard of them with a seed of its own, which is in its name; `make adversary SEED=...` with a printed seed plays the same again.
"""

from collections.abc import Callable

import pytest

from tests.adversary.mix import Mix, explore, replay, shards
from tests.adversary.mode import Fault

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("seed", "mixes"), shards(), ids=str)
def test_no_mix_loses_a_row_or_buys_one_twice_untold(seed: int, mixes: int, record_property: Callable[[str, object], None]) -> None:
    for name, count in explore(seed, mixes).items():
        record_property(name, count)


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "mix",
    [
        pytest.param(
            Mix(
                shape="anthropic",
                faults=(
                    Fault(at="create", how="302", done=False),
                    Fault(at="download", how="half", done=False),
                    Fault(at="create", how="302", done=False, times=None),
                ),
                rows=2,
                steps=(("cancel", 0),),
            ),
            id="what refuses the results breaks off",
        ),
        pytest.param(
            Mix(shape="openai", faults=(), quirks=("res_text", "stuck"), heals_s=None, rows=2, shard=None, crowd=0, steps=(("cancel", 0),)),
            id="one row is answered and cannot be read, and another is named as not reached",
        ),
        pytest.param(
            Mix(
                shape="openai",
                faults=(Fault(at="get", how="404 html", done=False, skip=1, times=3),),
                quirks=("oldest_first", "other_ids"),
                rows=2,
                shard=2,
                steps=(("submit", 0), ("die", 16)),
            ),
            id="the list has other ids, and the host does not know our own for a while",
        ),
        pytest.param(
            Mix(
                shape="openai",
                faults=(
                    Fault(at="create", how="integer id"),
                    Fault(at="get", how="integer id", skip=1, times=2),
                ),
                quirks=("no_metadata",),
                rows=2,
                crowd=1,
                steps=(("turn", 130), ("tick", 1)),
            ),
            id="an error with status 200 has an id",
        ),
        pytest.param(
            Mix(
                shape="openai",
                faults=(Fault(at="create", how="dropped", calls=2), Fault(at="create", how="502 html", lands_s=5.0)),
                quirks=("lags_long", "no_metadata"),
                rows=2,
                crowd=0,
            ),
            id="a batch is listed only when its shard has another upload, and has no mark but its own",
        ),
    ],
)
def test_a_mix_that_once_went_wrong_goes_right(mix: Mix) -> None:
    """One: the SDK reads the body of a refusal itself, and its transport's error came through every verb that sweeps.  The other: the counts of a
    cancelled batch fitted the rows that its results name, so the answered row was asked again, eleven times and untold.  The last: the batch that the list shows under
    another id was taken for a second one, and its cost was counted twice; so was it where an error that was not
    about a batch was read as the description of one.  Where a host keeps no metadata, the upload shows whose a batch is: that of an
    earlier create was forgotten, and two batches were never told."""
    replay(mix)
