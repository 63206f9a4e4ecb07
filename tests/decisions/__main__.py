"""`make decisions`: the policy simulation, printed.  N and SEED are make variables; nothing is asserted here (`tests/decisions/test_decisions.py` does)."""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.table import Table

from tests.decisions.simulate import Played, figures, play
from tests.decisions.world import World, bucket, share


def main() -> None:
    parser = argparse.ArgumentParser(prog="make decisions")
    parser.add_argument("--runs", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    begun = time.monotonic()
    played = play(World(given.seed, given.runs))
    console = Console(width=140)
    console.print(
        f"{given.runs:,} job runs over {played.world.span / 86_400:.0f} days, seed {given.seed}; {time.monotonic() - begun:.0f} s"
    )
    console.print(_policies(played))
    console.print(_parts(played))


_COLUMNS = ("kept", "kept, possible", "missed, possible", "cost", "mean cost", "rows paid twice", "breaches", "not all answered")


def _policies(played: Played) -> Table:
    table = Table("policy", *_COLUMNS, title="All job runs (cost: multiples of the clairvoyant's)")
    for name in played.runs:
        table.add_row(name, *_row(played, name))
    return table


def _parts(played: Played) -> Table:
    table = Table("Keld, where", "job runs", *_COLUMNS)
    world = played.world
    parts = [
        (f"deadline {name}", lambda run, name=name: bucket(run.order) == name)
        for name in ("under 1 h", "1-2 h", "2-4 h", "4-8 h", "8-24 h")
    ]
    parts += [("a provider stalls", lambda run: world.incident(run.order)), ("none stalls", lambda run: not world.incident(run.order))]
    parts += [(f"ceiling {name}", lambda run, name=name: run.order.ceiling == name) for name in ("none", "generous", "fair", "tight")]
    parts += [
        (", ".join(who), lambda run, who=who: run.order.accounts == who) for who in (("openai",), ("anthropic",), ("openai", "anthropic"))
    ]
    parts += [
        (f"{least:.0%}-{most:.0%} of an account needed", lambda run, least=least, most=most: least <= share(run.order) < most)
        for least, most in ((0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 10))
    ]
    parts += [("at least 1 h", lambda run: bucket(run.order) != "under 1 h")]
    parts += [
        (
            f"under {most:.0%} needed, ceiling holds a rescue",
            lambda run, most=most: share(run.order) < most and run.order.ceiling != "tight",
        )
        for most in (0.25, 0.5)
    ]
    for name, wanted in parts:
        table.add_row(name, f"{sum(wanted(run) for run in played.runs['Keld']):,}", *_row(played, "Keld", wanted))
    return table


def _row(played: Played, name: str, wanted=lambda run: True) -> list[str]:  # type: ignore[no-untyped-def]
    found = figures(played, name, wanted)
    return [
        f"{found.kept / max(found.runs, 1):.2%}",
        f"{found.kept_possible / max(found.possible, 1):.2%}",
        f"{found.possible - found.kept_possible:,} of {found.possible:,}",
        f"{found.cost:.3f}",
        f"{found.cost_mean:.3f}",
        f"{found.twice:,}",
        f"{found.breaches:,}",
        f"{found.unanswered:,}",
    ]


if __name__ == "__main__":
    main()
