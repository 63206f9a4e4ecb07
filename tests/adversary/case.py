"""Case: the table: what the other side does, at which of the shapes, and what must come of it.

What must come of it is what issue threads and the promise ask for, not what the engine happens to do: no row lost, none bought twice but where that
is told and counted, an end to every job run, and words for whoever waits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from keld import Status
from tests.adversary.host import SHAPES
from tests.adversary.mode import LISTS, REPLIES, SLOW, Fault
from tests.adversary.play import Play, host_of

BOTH = ("openai", "anthropic")
CLOUDS = ("azure", "mistral", "gemini", "vertex", "bedrock")
_FENCED, _UNFENCED, _REPLAYED = ("azure", "mistral", "vertex"), ("gemini",), ("bedrock",)
ANSWERED = frozenset({"answered"})
SHOWN = frozenset({"quarantined"})
EITHER = ANSWERED | SHOWN
_HOUR, _DAY = 3600.0, 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table.

    Args:
        line: the part of the table it belongs to.
        does: what the other side does, in words.
        faults, quirks, heals_s: the same as data; see `host.Host`.
        on: the shapes it is played at.
        bought: how often a row may be on the bill; above 1 it must be told and counted all the same (see `Play.check`).
        outcomes: that rows may have.
        tells: a pattern that is found in what was told.
        act: how it is driven; one of `ACTS`.
        creates: how many creates there may be; None: any number.
        cancels: how many cancels there must be at least, and may be at most; None: any number.
    """

    line: str
    does: str
    faults: tuple[Fault, ...] = ()
    quirks: tuple[str, ...] = ()
    heals_s: float | None = None
    on: tuple[str, ...] = BOTH
    bought: int = 1
    outcomes: frozenset[str] = ANSWERED
    tells: str = ""
    act: str = "run"
    creates: int | None = None
    cancels: tuple[int, int] | None = None
    crowd: int = 3
    rows: int = 4
    shard: int | None = None
    terms: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.line}: {self.does}"


# --- how it is driven -------------------------------------------------------------------------------------------------


def run(play: Play) -> Status | None:
    """Looked at until it is over."""
    return play.finish()


def cancel(play: Play) -> Status | None:
    """Cancelled by its user, a minute after it was sent."""
    for n in range(3):
        play.tick(n)
    play.cancel()
    status = play.finish()
    if status is not None and status.over and play.host.clock() - status.created_at > timedelta(days=3):
        play.violations.append(f"a cancel took until {play.host.clock()}")
    return status


def run_again(play: Play) -> Status | None:
    """Run, and when it is over run again: what is paid is not bought again."""
    play.finish()
    play.submit()
    return play.finish()


def clock_back(play: Play) -> Status | None:
    """After its first look the machine's clock is set back a day; nobody waits for that day to pass again."""
    play.tick()
    play.skew = timedelta(days=-1)
    before = play.host.clock()
    status = play.finish()
    if play.host.clock() - before > timedelta(hours=6):
        play.violations.append(f"it waited for {play.host.clock() - before} after the clock was set back")
    return status


def replaced(play: Play) -> Status | None:
    """After each look another worker, a new process, goes on."""
    for n in range(30):
        status = play.tick(n)
        if status is not None and status.over:
            return status
        play.restart()
    return play.finish()


ACTS: dict[str, Callable[[Play], Status | None]] = {
    "run": run,
    "cancel": cancel,
    "run again": run_again,
    "clock back": clock_back,
    "replaced": replaced,
}

# --- the table ----------------------------------------------------------------------------------------------------------

_ACCEPTED = ("404 html", "302", "307", "429 json", "404 json", "409 json", "200 html", "200 empty", "500")
_REFUSED = ("400 html", "413 html", "400 json", "401 html", "403 html")
_LOST = Fault(at="create", how="dropped")
_ODD_RESULTS = (
    "res_text",
    "res_empty",
    "res_gzip",
    "res_null",
    "res_array",
    "res_error",
    "res_foreign",
    "res_html",
    "res_redirect",
    "res_br",
    "res_404",
)


def _table() -> Iterator[Case]:
    for how in _ACCEPTED:
        yield Case(line="A1", does=f"a create is accepted, and answered {how}", faults=(Fault(at="create", how=how),), creates=1)
    for how in _REFUSED:
        does = f"a create is accepted, and answered {how}; run again"
        yield Case(line="A2", does=does, faults=(Fault(at="create", how=how),), act="run again", creates=1)
    for how in ("401 json", "403 json", "429 insufficient_quota", "402 json"):
        does = f"a create is accepted, and answered {how}"
        yield Case(line="A2", does=does, faults=(Fault(at="create", how=how),), tells="AccessRefused", creates=1)
    for first in (True, False):
        twice, which = Fault(at="create", calls=2, first=first), "first" if first else "last"
        does = f"one create makes two batches, the {which} reply is handed on"
        # The one that is too many bears our mark at OpenAI's shape, and is stopped; at Anthropic's nobody can tell until it has ended.
        marked: dict[str, Any] = {"on": ("openai",), "bought": 2, "creates": 1, "cancels": (1, 3)}
        unmarked = {**marked, "on": ("anthropic",), "cancels": (0, 0)}
        for more in (marked, unmarked):
            yield Case(line="A3", does=does, faults=(twice,), **more)
            yield Case(line="A3", does=f"{does}; all is answered at once", faults=(twice,), quirks=("eager",), **more)
            yield Case(line="A3", does="one create makes two batches, and no reply", faults=(replace(twice, how="dropped"),), **more)
    yield Case(line="A3", does="one create makes three batches", faults=(Fault(at="create", calls=3),), bought=3, creates=1)
    yield Case(line="A3", does="one create makes one batch, and other customers are busy", crowd=12, creates=1, cancels=(0, 0))
    for quirk, habit in LISTS.items():
        late = quirk == "lags_long"
        does = f"a create's reply is lost, and the host {habit}"
        # Without a list nothing would tell a lost create at Anthropic's shape, so that none is sent: that is said, and nothing is paid.
        ends = EITHER | ({"unasked"} if quirk == "list_404" else set())
        yield Case(line="A4", does=does, faults=(_LOST,), quirks=(quirk,), crowd=5, outcomes=ends, bought=2 if late else 1)
    for quirks in (("no_metadata", "no_input_id"), ("oldest_first", "pages_of_two"), ("oldest_first", "no_time"), ("no_counts", "no_time")):
        does = f"a create's reply is lost, and the host {' and '.join(LISTS[quirk] for quirk in quirks)}"
        yield Case(line="A4", does=does, faults=(_LOST,), quirks=quirks, crowd=5, outcomes=EITHER)
    yield Case(
        line="A4",
        does="nothing is lost, and the host lists batches under other ids",
        quirks=("other_ids",),
        creates=1,
        cancels=(0, 0),
    )
    for first in (True, False):
        does = f"one create makes two batches at the same instant, the {'first' if first else 'last'} reply is handed on, and the host lists other ids"
        doubled = Fault(at="create", calls=2, first=first)
        # Which of the two is ours is not known, so that neither is cancelled.
        yield Case(line="A4", does=does, faults=(doubled,), quirks=("other_ids",), creates=1, bought=2, cancels=(0, 0))
    for quirk in ("oldest_first", "ignores_after", "no_metadata", "list_404", "lags_long"):
        yield Case(
            line="A4",
            does=f"nothing is lost, and the host {LISTS[quirk]}",
            quirks=(quirk,),
            creates=1,
            outcomes=ANSWERED | ({"unasked"} if quirk == "list_404" else set()),
        )
    for quirk in _ODD_RESULTS:
        line = "A5" if _ODD_RESULTS.index(quirk) < 7 else "A8"
        named = quirk.removeprefix("res_")
        yield Case(
            line=line,
            does=f"completed, and the results are {named} for an hour",
            quirks=(quirk,),
            heals_s=_HOUR,
            creates=1,
            outcomes=EITHER,
        )
        yield Case(line=line, does=f"completed, and the results are {named} for ever", quirks=(quirk,), outcomes=SHOWN, creates=1)
        yield Case(
            line=line, does=f"the same for ever, and cancelled: {named}", quirks=(quirk, "eager"), outcomes=SHOWN, creates=1, act="cancel"
        )
    yield Case(line="A6", does="the results grow for 40 s after completed", quirks=("res_growing",), creates=1)
    yield Case(line="A6", does="the same, and no size is told", quirks=("res_growing", "no_size", "no_range"), creates=1)
    for more in ((), ("no_range",), ("no_size",), ("no_size", "no_range")):
        does = f"the results come in another order each time, the first time cut{''.join(f', {one}' for one in more)}"
        yield Case(line="A6", does=does, quirks=("res_shuffled", *more), rows=6, creates=1)
    yield Case(line="A6", does="the results lack a row for good", quirks=("res_part",), bought=2, outcomes=EITHER)
    yield Case(line="A6", does="the results say everything twice", quirks=("res_twice",), creates=1)
    for at in ("create", "get", "list", "upload", "download", "size"):
        for how in SLOW:
            lost = (_LOST,) if at == "list" else ()
            on = ("openai",) if at in ("upload", "size") else BOTH
            does = (
                f"{at}: the reply is {'never sent' if how == 'never' else 'trickled' if how == 'trickle' else 'trickled from its head on'}"
            )
            yield Case(line="A7", does=does, faults=(*lost, Fault(at=at, how=how)), on=on, creates=1)
    for how in SLOW:
        yield Case(
            line="A7",
            does=f"cancel: {how}",
            faults=(Fault(at="cancel", how=how),),
            act="cancel",
            outcomes=ANSWERED | {"cancelled"},
            creates=1,
        )
        gone = (Fault(at="create", how="dropped", done=False), Fault(at="delete", how=how))
        yield Case(line="A7", does=f"delete: {how}", faults=gone, on=("openai",))
    yield Case(
        line="A7",
        does="download: trickled, and each look by another process",
        faults=(Fault(at="download", how="trickle"),),
        act="replaced",
        creates=1,
    )
    for act in ("run", "cancel"):
        after = "; cancelled" if act == "cancel" else ""
        over: dict[str, Any] = {"act": act, "outcomes": EITHER | {"unasked", *(["cancelled"] if act == "cancel" else [])}, "creates": 1}
        yield Case(line="A8", does=f"every look is answered 500 for 75 h{after}", quirks=("life_500",), **over)
        yield Case(line="A8", does=f"the host does not know its batch for 75 h{after}", quirks=("denies",), **over)
        yield Case(line="A8", does=f"the create is lost and there is no list{after}", faults=(_LOST,), quirks=("list_404",), **over)
        yield Case(line="A8", does=f"ids are integers{after}", quirks=("integer_ids",), **over)
        yield Case(line="A8", does=f"a batch never ends and heeds no cancel{after}", quirks=("stuck", "no_cancel"), **over)
        yield Case(line="A8", does=f"every look is answered 404 HTML{after}", faults=(Fault(at="get", how="404 html", times=None),), **over)
        yield Case(line="A8", does=f"every look is answered 403 HTML{after}", faults=(Fault(at="get", how="403 html", times=None),), **over)
        yield Case(
            line="A8", does=f"every look is answered with nothing{after}", faults=(Fault(at="get", how="200 empty", times=None),), **over
        )
    yield Case(
        line="A8",
        does="every cancel is answered 500",
        faults=(Fault(at="cancel", how="500", times=None),),
        act="cancel",
        outcomes=EITHER | {"cancelled"},
        creates=1,
    )
    does = "every cancel is answered HTML"
    yield Case(
        line="A8",
        does=does,
        faults=(Fault(at="cancel", how="200 html", times=None),),
        act="cancel",
        outcomes=EITHER | {"cancelled"},
        creates=1,
    )
    for how in ("429 insufficient_quota", "401 json", "403 json", "402 json"):
        refused = Fault(at="create", how=how, done=False, times=2)
        yield Case(line="A9", does=f"a create is refused twice: {how}", faults=(refused,), tells="AccessRefused")
    does = "a queue is full three times: 429"
    yield Case(line="A9", does=does, faults=(Fault(at="create", how="429 json", done=False, times=3),))
    for done in (True, False):
        does = f"a create's reply is lost, it was {'' if done else 'not '}carried out, and the clock is set back a day"
        yield Case(line="A10", does=does, faults=(Fault(at="create", how="dropped", done=done),), act="clock back")
    yield Case(
        line="A10",
        does="a queue is full, and the clock is set back a day",
        faults=(Fault(at="create", how="429 json", done=False),),
        act="clock back",
    )


def _lost_late_doubled() -> Iterator[Case]:
    """At the other shapes: how often a row is bought if its create is lost, late or doubled on the way."""
    for how in ("dropped", "half", "502 html", "200 html", "200 empty", "404 html", "409 json", "307"):
        # Where a create is known by its token the very same is sent again, and makes no second job.
        fault, does = Fault(at="create", how=how), f"lost: a create is accepted, and answered {how}"
        yield Case(line="B1", does=does, faults=(fault,), on=(*_FENCED, *_UNFENCED), creates=1)
        yield Case(line="B1", does=does, faults=(fault,), on=_REPLAYED)
    for how in ("dropped", "500", "408 json"):
        does = f"lost: a create is not carried out, and answered {how}"
        yield Case(line="B1", does=does, faults=(Fault(at="create", how=how, done=False),), on=CLOUDS)
    for quirk in ("lags", "lags_long", "oldest_first", "pages_of_two", "no_time", "no_filter", "fails_later", "list_404"):
        does = f"lost: a create's reply is dropped, and the host {LISTS[quirk]}"
        ends = EITHER | ({"unasked"} if quirk == "list_404" else set())
        twice = 2 if quirk == "lags_long" else 1
        yield Case(line="B1", does=does, faults=(_LOST,), quirks=(quirk,), crowd=5, outcomes=ends, on=(*_FENCED, *_UNFENCED), bought=twice)
        yield Case(line="B1", does=does, faults=(_LOST,), quirks=(quirk,), crowd=5, on=_REPLAYED)
    for lands_s in (30.0, 500.0, 4_000.0, 100_000.0):
        late = Fault(at="create", how="dropped", lands_s=lands_s)
        does = f"late: a create's reply is dropped, and it lands {lands_s:,.0f} s later"
        yield Case(line="B2", does=does, faults=(late,), on=(*_FENCED, *_REPLAYED), outcomes=EITHER)
        yield Case(line="B2", does=does, faults=(late,), on=_UNFENCED, bought=2 if lands_s > 1_000 else 1, outcomes=EITHER)
    for first in (True, False):
        twice_sent, which = Fault(at="create", calls=2, first=first), "first" if first else "last"
        does = f"doubled: one create is sent twice on the way, the {which} reply is handed on"
        yield Case(line="B3", does=does, faults=(twice_sent,), on=(*_FENCED, *_UNFENCED), bought=2, creates=1)
        yield Case(line="B3", does=does, faults=(twice_sent,), on=_REPLAYED, creates=1)
        listed = f"{does}, and the list has other ids"
        yield Case(
            line="B3",
            does=listed,
            faults=(twice_sent,),
            quirks=("other_ids",),
            on=(*_FENCED, *_UNFENCED),
            bought=2,
            creates=1,
            cancels=(0, 0),
        )
    does, unanswered = "doubled: one create is sent twice on the way, and no reply", Fault(at="create", calls=2, how="dropped")
    yield Case(line="B3", does=does, faults=(unanswered,), on=(*_FENCED, *_UNFENCED), bought=2, creates=1)
    yield Case(line="B3", does=does, faults=(unanswered,), on=_REPLAYED)
    yield Case(line="B4", does="nothing goes wrong, and other customers are busy", crowd=12, on=CLOUDS, creates=1, cancels=(0, 0))


CASES = (*_table(), *_lost_late_doubled())


# --- every reply to every call -----------------------------------------------------------------------------------------


def every_reply() -> Iterator[Case]:
    """Each way a single reply can go wrong, at each call, carried out or not; slow ones are in the table."""
    for at in ("create", "get", "list", "upload", "size", "download", "cancel", "delete"):
        for how in REPLIES:
            if how in SLOW or how == "true":
                continue
            for done in (True, False):
                yield _reply_to(at, how, done)


def _reply_to(at: str, how: str, done: bool) -> Case:
    lost = {"list": (_LOST,), "delete": (Fault(at="create", how="dropped", done=False),)}.get(at, ())
    act = "cancel" if at == "cancel" else "run"
    outcomes = ANSWERED | ({"cancelled"} if act == "cancel" else set())
    if at == "create" and not done:
        # A definite no of this very request is an outcome of its rows; where there is no mark to look for, it may be no proof.
        outcomes |= {"rejected"} if how in ("400 html", "400 json", "413 html") else set()
        # Somebody said that a batch of this id was made: it is never sent again, and where it stays unknown, a person decides.
        outcomes |= SHOWN if how == "integer id" else set()
    if at in ("upload", "create") and how in ("400 html", "400 json", "413 html"):
        outcomes |= {"rejected"}
    fault = Fault(at=at, how=how, done=done)
    on = ("openai",) if at in ("upload", "size", "delete") else BOTH
    does = f"{at} answered {how}, {'carried out' if done else 'not carried out'}"
    return Case(line="reply", does=does, faults=(*lost, fault), on=on, outcomes=outcomes, act=act)


# --- how a case ended ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a case ended at one shape."""

    case: Case
    shape: str
    bought: tuple[int, int]  # purchases of a row, the least and the most
    outcomes: Counter[str]
    twice_usd: str
    reserved_usd: str
    said: tuple[str, ...]
    creates: int
    faults: tuple[str, ...]  # what is not as it must be

    @property
    def row(self) -> str:
        low, high = self.bought
        out = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        money = " ".join(f"{name} ${usd}" for name, usd in (("twice", self.twice_usd), ("reserved", self.reserved_usd)) if usd != "0")
        said = "; ".join(_short(word) for word in self.said[:2])
        verdict = "ok" if not self.faults else "**" + "; ".join(_short(fault) for fault in self.faults) + "**"
        return f"| {self.case.line} | {self.case.does} | {self.shape} | {low if low == high else f'{low} to {high}'} | {out} | {money} | {said} | {verdict} |"


HEAD = "| line | the other side | shape | purchases a row | rows | money | told | |\n|---|---|---|---|---|---|---|---|"


def _short(text: str) -> str:
    text = re.sub(r"\b\w+ at http://[\d.:]+", "it", " ".join(text.split())).replace("|", "/")
    return text if len(text) < 160 else text[:157] + "..."


def played(case: Case, shape: str) -> Ended:
    """The case at one shape, to its end."""
    rows = max(case.rows, SHAPES[shape].least_rows)
    host = host_of(shape, *case.faults, quirks=case.quirks, heals_s=case.heals_s, rows=rows, crowd=case.crowd)
    play = Play(host, rows=rows, shard=case.shard, terms=dict(case.terms))
    try:
        status = ACTS[case.act](play)
        play.settle()
        wrong = list(play.check())
        out = play.rows_out()
        bought = Counter({row["body"]: 0 for row in out}) + Counter({prompt: len(entries) for prompt, entries in play.purchases().items()})
        counts = [bought[row["body"]] for row in out] or [max(bought.values(), default=0)]
        outcomes = Counter(row["keld_outcome"] for row in out)
        words = play.told + [f"{batch.state.value}: {batch.error}" for batch in (status.batches if status else ()) if batch.error]
        words += sorted({row["keld_error"] for row in out if row["keld_error"]})
        if max(counts) > case.bought:
            wrong.append(f"bought {max(counts)} times")
        if odd := set(outcomes) - case.outcomes:
            wrong.append(f"rows are {', '.join(sorted(odd))}")
        if case.creates is not None and host.creates() > case.creates:
            wrong.append(f"{host.creates()} creates")
        cancels = host.calls()["cancel"]
        if case.cancels is not None and not case.cancels[0] <= cancels <= case.cancels[1]:
            wrong.append(f"{cancels} cancels")
        if case.tells and not any(re.search(case.tells, word) for word in words):
            wrong.append(f"{case.tells} was not told")
        if missed := [
            str(fault) for fault in case.faults if fault not in host.plan.hits and fault.at not in _MAY_NOT_COME and host.creates()
        ]:
            wrong.append(f"never met: {', '.join(missed)}")
        spent = play.spent()
        return Ended(
            case=case, shape=shape, bought=(min(counts), max(counts)), outcomes=outcomes, twice_usd=f"{spent.twice_usd.normalize():f}",
            reserved_usd=f"{spent.in_flight_usd.normalize():f}", said=tuple(words), creates=host.creates(), faults=tuple(wrong),
        )  # fmt: skip
    finally:
        play.close()


_MAY_NOT_COME = ("size", "delete", "list", "cancel")  # calls that a client may do without


def document(cases: Iterator[Case] | tuple[Case, ...], shapes: tuple[str, ...] = BOTH) -> Iterator[str]:
    """The table, line by line."""
    yield HEAD
    for case in cases:
        for shape in case.on:
            if shape in shapes:
                yield played(case, shape).row
