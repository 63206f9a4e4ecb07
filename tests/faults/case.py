"""Case: a fault as data: what the provider does, what Keld does about it, and what must then be true.

`docs/reference/faults.md` is made of this, and `test_table` plays each case to its end, so that neither can say what the other does not.
The purchases are those on the provider's bill, never Keld's own count of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from keld.providers.kinds import preset_of
from tests.support.ticket_job import PEERS

OPENAI, ANTHROPIC = "openai", "anthropic"
# The kinds at which the table is played.  A new kind is one name here; what it cannot do its traits say, what it does otherwise `Case.but`.
KINDS = (OPENAI, ANTHROPIC, "azure", "bedrock", "gemini", "mistral", "vertex")
_TRAITS = {kind: preset_of(kind, kind).traits for kind in KINDS}
_FENCED = tuple(kind for kind in KINDS if _TRAITS[kind].fences)
_UNFENCED = tuple(kind for kind in KINDS if not _TRAITS[kind].fences)
_MARKED = tuple(kind for kind in KINDS if _TRAITS[kind].marks_batches and _TRAITS[kind].replays is None)
_UNMARKED = tuple(kind for kind in KINDS if not _TRAITS[kind].marks_batches)
_REPLAYING = tuple(kind for kind in KINDS if _TRAITS[kind].replays is not None)  # the same create again makes no second batch
_EXPIRING = tuple(kind for kind in KINDS if _TRAITS[kind].window is not None)
_LOSING = tuple(kind for kind in KINDS if not _TRAITS[kind].keeps_on_cancel)  # with a cancel or an expiry the answers are gone, though paid
ROWS = 6
_HOUR = 3_600.0
_DAY = 24 * _HOUR
Plan = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault, and the job run of six rows that meets it.

    Args:
        fault: what goes wrong, in words; with `at`, where.
        rules: the same for the emulator (see `keld.emulator.fault`).
        does: what Keld does about it.
        on: the providers that it is expected of.
        answered, failed, quarantined: the rows, in the end.
        bought, most: rows on the bill; the most of any one row.
        creates: how often the one call was made that costs money.
        terms: of the job; `settings` of the runner; `emulator` of the provider.
        cancel_s: when the user cancels; `cancelled_elsewhere_s`: when somebody else does, in the provider's console.
        step_s: the clock is turned by no less: for what takes days.
        swept: the job run is looked at until what landed late has been found and counted.
        slow: not in the fast suite.
        but: what is otherwise at some kinds: kind -> fields.
    """

    section: str = ""
    fault: str
    at: str = ""
    rules: tuple[Plan, ...]
    does: str
    on: tuple[str, ...] = KINDS
    answered: int = ROWS
    failed: int = 0
    quarantined: int = 0
    bought: int = ROWS
    most: int = 1
    creates: int = 1
    terms: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    emulator: Mapping[str, Any] = field(default_factory=dict)
    cancel_s: float | None = None
    cancelled_elsewhere_s: float | None = None
    step_s: float = 1.0
    swept: bool = False
    slow: bool = False
    but: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def at_kind(self, kind: str) -> Case:
        """The case as it is at one kind."""
        return replace(self, on=(kind,), but={}, **self.but.get(kind, {}))

    def __str__(self) -> str:
        return f"{self.fault}{' at ' + self.at if self.at else ''}"


def rule(at: str, do: str, **more: Any) -> Plan:
    return {"at": at, "do": do, **more}


def _section(name: str, *cases: Case) -> tuple[Case, ...]:
    return tuple(replace(case, section=name) for case in cases)


# --- the create -------------------------------------------------------------------------------------------------------

_REPLAYS = "sends the same create again, with the same token: it makes no second batch, and its answer is adopted"
_REPLAYED = {kind: {"creates": 2, "does": _REPLAYS} for kind in _REPLAYING}
_ADOPTS = "looks for it at the provider and adopts it"
_ADOPTS_ALL_THE_SAME = "looks whether it was done nevertheless, finds it and adopts it"
_LOOKS_THEN = "looks whether it was done nevertheless, and then"
_PAGE = "a page that is not the provider's own"
_AGAIN = "looks, fences where the provider has a fence, looks again, and only then sends again"
_NEVER_TWICE = {"failed": 0, "answered": 0, "quarantined": ROWS}

CREATE = _section(
    "The create, the one call that costs money",
    Case(fault="done, and the connection closed without a reply", rules=(rule("create", "drop_after"),), does=_ADOPTS, but=_REPLAYED),
    Case(fault="done, and a proxy answers 502", rules=(rule("create", "status", status=502, after=True),), does=_ADOPTS, but=_REPLAYED, slow=True),
    Case(fault="done, and a proxy answers an HTML page", rules=(rule("create", "garbage", after=True),), does=_ADOPTS, but=_REPLAYED),
    Case(fault="not done, and the connection closed", rules=(rule("create", "drop_before"),), does=_AGAIN, creates=2),
    Case(fault="not done, and answered 500", rules=(rule("create", "status", status=500),), does=_AGAIN, creates=2, slow=True),
    Case(fault="not done, and answered 408", rules=(rule("create", "status", status=408),), does=_AGAIN, creates=2, slow=True),
    Case(fault="not done, and answered an HTML page with status 200", rules=(rule("create", "garbage"),), does=_AGAIN, creates=2, slow=True),
    Case(fault="done, and missing from the list for 70 s", rules=(rule("create", "drop_after"), rule("create", "list_lag", for_s=70)), does=_ADOPTS, but=_REPLAYED),
    Case(
        fault="done, and missing from the list until the last look is over",
        rules=(rule("create", "drop_after"), rule("create", "list_lag", for_s=5_000)),
        does="sends again after the last look; the sweep finds the first, stops what still runs of it and counts what it cost: bought twice, and reported",
        creates=2, bought=2 * ROWS, most=2, swept=True,
        but={kind: {"bought": ROWS, "most": 1, "swept": False, "does": _REPLAYS} for kind in _REPLAYING},
    ),
    Case(fault="it lands 200 s later", rules=(rule("create", "late_landing", after_s=200),), does="finds it at a later look and adopts it", but=_REPLAYED),
    Case(
        fault="it would land after the fence", rules=(rule("create", "late_landing", after_s=_HOUR),), on=_FENCED, creates=2,
        does="deletes its input file before it sends again, so that it cannot land", step_s=600,
    ),
    Case(
        fault="it lands 1,000 s later, where there is no fence", rules=(rule("create", "late_landing", after_s=1_000),), on=_UNFENCED,
        does="waits with its last look for longer than any request lives (21 min), and adopts it",
    ),
    Case(
        fault="it lands after the last look, where there is no fence", rules=(rule("create", "late_landing", after_s=2_000),), on=_UNFENCED,
        does="has sent again by then; the sweep finds the first and counts what it cost: bought twice, and reported",
        creates=2, bought=2 * ROWS, most=2, swept=True,
    ),
    Case(
        fault="it never lands, with `resend_unfenced=False`", rules=(rule("create", "drop_before"),), on=_UNFENCED,
        does="quarantines the rows: nothing can prove that it will not land yet", settings={"resend_unfenced": False}, bought=0, **_NEVER_TWICE,
    ),
    Case(
        fault="it lands after the last look, with `resend_unfenced=False`", rules=(rule("create", "late_landing", after_s=2_000),), on=_UNFENCED,
        does="quarantines the rows, finds it in a later sweep, adopts it and collects its answers",
        settings={"resend_unfenced": False}, swept=True,
    ),
    Case(fault="done, and GET says 404 for 25 s", rules=(rule("create", "hidden", for_s=25),), does="assumes that it is only late, and looks again"),
    Case(
        fault="done, and GET says 404 forever", rules=(rule("create", "hidden", for_s=10**9),), step_s=3 * _HOUR, **_NEVER_TWICE,
        does="reports it after 10 min, never sends again; quarantines the rows a day past its window, their worst case still reserved",
    ),
    *(
        Case(fault=f"refused for good with {code}", rules=(rule("create", "status", status=code),),
             does=f"{_LOOKS_THEN} rejects the rows with the reason", answered=0, failed=ROWS, bought=0, slow=code != 400)
        for code in (400, 413, 422)
    ),
    Case(fault="refused with 404: the input file is gone", rules=(rule("create", "status", status=404),), does=f"{_LOOKS_THEN} uploads again and sends again", creates=2),
    Case(fault="rate limited: 429 with `retry-after`", rules=(rule("create", "status", status=429, retry_after=90),), does=f"{_LOOKS_THEN} sends again when the provider allows it", creates=2),
    *(
        Case(fault=f"done, and refused with {code} in the provider's own shape", rules=(rule("create", "status", status=code, after=True, retry_after=0.001),),
             does=_ADOPTS_ALL_THE_SAME, slow=code not in (400, 429))
        for code in (400, 401, 403, 404, 413, 429)
    ),
    *(
        Case(fault=f"done, and a proxy answers {code} with {_PAGE}", rules=(rule("create", "garbage", status=code, after=True),),
             does=_ADOPTS_ALL_THE_SAME, slow=code not in (403, 404))
        for code in (400, 403, 404, 413, 429)
    ),
    Case(fault="done, and a proxy answers with a redirect", rules=(rule("create", "garbage", status=302, after=True),), does=_ADOPTS_ALL_THE_SAME),
    *(
        Case(fault=f"not done, and a proxy answers {code} with {_PAGE}", rules=(rule("create", "garbage", status=code),), does=f"{_AGAIN}; reports it", creates=2,
             slow=code != 403)
        for code in (403, 404, 429)
    ),
    *(
        Case(fault=f"not done, and a proxy answers {code} with {_PAGE}", rules=(rule("create", "garbage", status=code),),
             does="looks as long as for a lost reply, and then rejects the rows with the reason", answered=0, failed=ROWS, bought=0, slow=code != 413)
        for code in (400, 413)
    ),
    *(
        Case(fault=f"no money: {status} `{code}`", rules=(rule("create", "status", status=status, code=code, message=words),), on=(peer,), creates=2,
             does=f"reports it at once; {_LOOKS_THEN} continues when it is corrected")
        for peer, status, code, words in (
            (OPENAI, 429, "insufficient_quota", "You exceeded your current quota."),
            (OPENAI, 400, "billing_hard_limit_reached", "Billing hard limit has been reached"),
            (ANTHROPIC, 400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        )
    ),
    Case(
        fault="a gateway has it done twice", rules=(rule("create", "twice"), rule("life", "stuck", done=0.5, match={"batch": 2})), on=_MARKED,
        does="looks once beside each create that succeeded, stops what carries its mark and counts what it cost: bought twice, and reported",
        bought=9, most=2, swept=True,
    ),
    Case(
        fault="a gateway sends it twice, with its token", rules=(rule("create", "twice"),), on=_REPLAYING,
        does="nothing: the second has the same token and makes no second batch",
    ),
    Case(
        fault="a gateway has it done twice, where batches carry no mark", rules=(rule("create", "twice"),), on=_UNMARKED,
        does="looks once beside each create that succeeded, reserves for what may be its own until the results show it, and counts it: bought twice, and reported",
        bought=2 * ROWS, most=2, swept=True,
    ),
)  # fmt: skip

# --- the batch --------------------------------------------------------------------------------------------------------

_BELIEVES_LINES = "does not believe the counts, only the lines"


def _lost(does: str) -> dict[str, Plan]:
    """Half of the rows are bought twice where a batch that was cancelled, or expired, gives nothing back."""
    return {kind: {"bought": ROWS + ROWS // 2, "most": 2, "does": does} for kind in _LOSING}


_STUCK = "cancels it a day past its window, collects what it answered, asks the rest again"

BATCH = _section(
    "The batch, while it runs",
    Case(
        fault="validation fails minutes after the create was answered with 200", rules=(rule("life", "fail", code="invalid_json_line", line=1),),
        on=(OPENAI,), does="rejects the rows with the code", answered=0, failed=ROWS, bought=0, emulator={"validate_s": 300},
    ),
    Case(
        fault="`token_limit_exceeded`, twice", rules=(rule("life", "token_limit", times=2),), on=(OPENAI,), creates=3,
        does="assumes a full queue: the same file goes again, later each time",
    ),
    Case(
        fault="a status never seen before", rules=(rule("life", "status", value="paused_for_review"),),
        does="assumes that it still runs, and looks again later",
    ),
    *(
        Case(
            fault="a last status never seen before, forever", rules=(rule("life", "status", value="thinking", instead_of=last),), on=(peer,),
            does="cancels it a day past its window; two days later quarantines the rows, since nothing shows what it answered",
            step_s=3 * _HOUR, **_NEVER_TWICE,
        )
        for peer, last in ((OPENAI, "completed"), (ANTHROPIC, "ended"))
    ),
    Case(
        fault="stuck forever, half done", rules=(rule("life", "stuck", done=0.5),), does=_STUCK, creates=2, step_s=3 * _HOUR, on=_EXPIRING,
        but=_lost("cancels it a day past its window; what it had answered is gone, though paid, and all rows are asked again"),
    ),
    Case(
        fault="stuck forever before it began", rules=(rule("life", "stuck", status="validating"),), step_s=3 * _HOUR, slow=True,
        does="cancels it a day past its window and collects what it answered", on=_EXPIRING,
        but={kind: {"creates": 2, "bought": 2 * ROWS, "most": 2, "does": "cancels it a day past its window; what it had answered is gone, though paid"} for kind in _LOSING},
    ),
    Case(
        fault="stuck forever in `cancelling`", rules=(rule("life", "stuck", status="cancelling"),), cancel_s=30, step_s=3 * _HOUR, bought=3,
        does="quarantines the rows half an hour after the user's cancel, their worst case still reserved", **_NEVER_TWICE,
    ),
    Case(
        fault="it expires, half done", rules=(rule("life", "expire", done=0.5, after_s=600),), creates=2,
        does="keeps what was answered, which is paid, and asks only the rest again",
        but=_lost("what was answered is gone, though paid: asks all rows again"),
    ),
    Case(
        fault="it expires, and nothing was done", rules=(rule("life", "expire", done=0.0, after_s=600),), creates=2, slow=True,
        does="asks all rows again",
    ),
    Case(
        fault="the user cancels it, half done", rules=(), cancel_s=30, answered=3, failed=3, bought=3,
        does="collects what was answered, which is paid",
        but={kind: {"answered": 0, "failed": ROWS, "does": "the host gives nothing back of what it answered, and bills it: paid for nothing, and reported"} for kind in _LOSING},
    ),
    Case(
        fault="somebody else cancels it, half done", rules=(), cancelled_elsewhere_s=30, creates=2,
        does="keeps what was answered, and asks only the rest again",
        but=_lost("what was answered is gone, though paid: asks all rows again"),
    ),
    *(
        Case(fault=f"counts that lie: {words}", rules=(rule("life", "counts", **counts),), on=(OPENAI,), does=_BELIEVES_LINES, slow=slow)
        for words, counts, slow in (
            ("all zero", {"total": 0, "completed": 0, "failed": 0}, True),
            ("null", {"total": None, "completed": None, "failed": None}, False),
            ("more than asked, and negative", {"completed": 999, "failed": -1}, True),
        )
    ),
    *(
        Case(fault=f"counts that lie: {words}", rules=(rule("life", "counts", **counts),), on=(ANTHROPIC,), does=_BELIEVES_LINES, slow=slow)
        for words, counts, slow in (
            ("null", {"processing": None, "succeeded": None, "errored": None}, False),
            ("more than asked", {"succeeded": 999}, True),
            ("all expired", {"succeeded": 0, "expired": ROWS}, True),
        )
    ),
)  # fmt: skip

# --- its results ------------------------------------------------------------------------------------------------------

_WAITS = (
    "fetches them again for two days, later each time; then quarantines the rows, their worst case still reserved; never asks them again"
)
_HALF_GONE = (rule("rows", "error", status=500, count=2),)
_ALL = {"answered": 0, "failed": ROWS}
_UNREAD = {**_NEVER_TWICE, "step_s": 3 * _HOUR}

RESULTS = _section(
    "The results, as the batch names them",
    Case(fault="`error_file_id` is null", rules=(rule("results", "no_error_id"),), on=(OPENAI,), does="reads the output file", slow=True),
    Case(fault='`error_file_id` is ""', rules=(rule("results", "empty_error_id"),), on=(OPENAI,), does="reads the output file"),
    Case(fault="the error file has no bytes", rules=(rule("results", "zero_byte_error"),), on=(OPENAI,), does="reads the output file"),
    Case(
        fault="two rows failed, and the error file is not named", rules=(*_HALF_GONE, rule("results", "no_error_id")), on=(OPENAI,), creates=2,
        does="finds them in no file and asks them again",
    ),
    Case(
        fault="two rows failed, and the error file has no bytes", rules=(*_HALF_GONE, rule("results", "zero_byte_error")), on=(OPENAI,), creates=2,
        does="finds them in no file and asks them again", slow=True,
    ),
    Case(fault="the results are named 5 min after the end", rules=(rule("results", "late_ids", for_s=300),), does="waits for them"),
    Case(fault="the results are never named", rules=(rule("results", "no_output_id"),), does=_WAITS, **_UNREAD),
    Case(fault='`output_file_id` is ""', rules=(rule("results", "empty_output_id"),), on=(OPENAI,), does=_WAITS, slow=True, **_UNREAD),
    Case(
        fault='`results_url` is ""', rules=(rule("results", "empty_output_id"),), on=(ANTHROPIC,),
        does="waits ten minutes, then asks the documented path for them",
    ),
    Case(fault="the output file has no bytes", rules=(rule("results", "zero_byte_output"),), does=_WAITS, **_UNREAD),
    Case(
        fault="the output file has no bytes, and nobody was answered", rules=(rule("rows", "error", status=500), rule("results", "zero_byte_error")),
        on=(OPENAI,), does="asks them again, since the provider's counts say that none was answered", creates=2,
    ),
    Case(fault="the results are named, and 404 forever", rules=(rule("download", "status", status=404, times=None),), does=_WAITS, **_UNREAD),
    *(
        Case(fault=f"the results are {words}, forever", rules=(rule("download", "garbage", body=body, times=None),), does=_WAITS, slow=slow, **_UNREAD)
        for words, body, slow in (
            ("an HTML page", "<html>502</html>", True), ("text", "upstream connect error", False), ("`null`", "null", True), ("an array", "[]", True),
            ("an error with status 200", '{"error":{"message":"try later","type":"overloaded_error"}}', False),
            ("lines of other rows", '{"custom_id":"other-00000001","response":{"status_code":200,"body":{}},"result":{"type":"succeeded"}}\n', False),
        )
    ),
    *(
        Case(fault=f"the results are {words}, for three hours", rules=(rule("download", "garbage", body=body, times=9),), does="fetches them later", slow=slow)
        for words, body, slow in (("text", "upstream connect error", False), ("an array", "[]", True))
    ),
    Case(
        fault="the results come in a content-encoding that nobody asked for, forever", rules=(rule("download", "garbage", body="?", encoding="br", times=None),),
        does=_WAITS, **_UNREAD,
    ),
    Case(
        fault="the results redirect to another host, which does not answer, forever", rules=(rule("download", "redirect", times=None),), does=_WAITS,
        slow=True, **_UNREAD,
    ),
    Case(fault="the results are named, and 404 for a while", rules=(rule("download", "status", status=404, times=3),), does="fetches them later"),
    Case(
        fault="`results_url` names another host", rules=(rule("results", "results_url"),), on=(ANTHROPIC,),
        does="does not follow it, since the key would go there: asks the documented path on its own host",
    ),
)  # fmt: skip

# Where a refusal is a text like any other, it breaks the schema, and the row is asked once more.
_UNSAID: dict[str, Plan] = {
    kind: {
        "answered": ROWS,
        "failed": 0,
        "bought": ROWS + 2,
        "most": 2,
        "creates": 2,
        "does": "a refusal is an answer that breaks the schema there: asks these two again",
    }
    for kind in KINDS
    if not PEERS[kind].says_refused
}
ROW = _section(
    "The rows",
    Case(fault="all failed with 500", rules=(rule("rows", "error", status=500),), does="asks them again, since they were not paid", creates=2),
    Case(
        fault="all fail with 500, forever", rules=(rule("rows", "error", status=500, times=None),), terms={"max_attempts": 2}, creates=2, bought=0,
        does="gives up after `max_attempts`, with the reason", slow=True, **_ALL,
    ),
    Case(fault="all refused with 400", rules=(rule("rows", "error", status=400),), does="does not ask again: it would be refused again", bought=0, **_ALL),
    Case(fault="a model that no row finds", rules=(rule("rows", "model_not_found", times=None),), does="does not ask again", bought=0, slow=True, **_ALL),
    *(
        Case(
            fault=f"two answers {words}", rules=(rule("rows", do, count=2),), answered=4, failed=2, slow=do != "length",
            does="reports it; it is paid, and not asked again", but=_UNSAID if do == "refusal" else {},
        )
        for do, words in (("refusal", "are refusals"), ("length", "are cut off"))
    ),
    Case(
        fault="two answers break the schema", rules=(rule("rows", "invalid", count=2),), creates=2, bought=8, most=2, slow=True,
        does="tells the model what was wrong, and asks these two again: each answer is paid",
    ),
)  # fmt: skip

# --- the lines --------------------------------------------------------------------------------------------------------

_TEXT = {"output_type": str}
_READ_ON = "loses no answer"
_ASKED_AGAIN = (
    "fetches the file again for ten minutes; then loses the row's answer, reports it, and asks that row once more; the others are kept"
)
_LOST_TWO = {"creates": 2, "bought": ROWS + 2, "most": 2}

LINES = _section(
    "The lines of a result file",
    *(
        Case(fault=words, rules=(rule("lines", do, **more),), does=_READ_ON, terms=_TEXT, slow=slow)
        for words, do, more, slow in (
            ("in another order", "reorder", {}, True),
            ("blank lines between", "blank", {"count": 3}, True),
            ("byte order mark", "bom", {}, True),
            ("CRLF", "crlf", {}, True),
            ("NaN in a line", "nan", {"count": 3}, True),
            ("a lone surrogate in a field", "surrogate", {"count": 3}, True),
            ("a lone surrogate in an answer", "surrogate", {"count": 3, "inside": "answer"}, False),
            ("a raw U+2028 in an answer", "u2028", {"count": 3, "inside": "answer"}, False),
            ("a field of 3 MB", "huge", {"count": 1, "size_mb": 3}, True),
        )
    ),
    Case(fault="rows twice", rules=(rule("lines", "duplicate", count=3),), does="takes the first, counts the second"),
    Case(fault="rows nobody asked for", rules=(rule("lines", "foreign", count=3),), does="counts and drops them"),
    Case(fault="`custom_id` twice in a line", rules=(rule("lines", "duplicate_key", count=3),), does="takes the last, as every reader of JSON does",
        but={"vertex": {"creates": 2, "bought": ROWS + 3, "most": 2, "does": "cannot tell whose answers these are: asks those three rows again"}}),
    *(
        Case(fault=f"two lines {words}", rules=(rule("lines", do, count=2),), does=_ASKED_AGAIN, slow=slow, **_LOST_TWO)
        for do, words, slow in (("missing", "missing", False), ("cut", "cut in the middle", False), ("garbage", "that are noise", True), ("deep", "with brackets nested 100,000 deep", False))
    ),
    Case(
        fault="a line of 300 MB", terms={**_TEXT, "max_output_tokens": 64_000}, slow=True, creates=2, bought=ROWS + 1, most=2,
        rules=(rule("lines", "huge", count=1, size_mb=300), rule("lines", "reorder", order="input")),
        does="skips it in bounded memory, fetches the file again, loses that row's answer and asks it once more; the lines behind it are kept",
    ),
)  # fmt: skip

# --- the download -----------------------------------------------------------------------------------------------------

_CUT_OFF = "stops at the largest size that the rows can have"

DOWNLOAD = _section(
    "The download",
    Case(fault="it breaks off, twice", rules=(rule("download", "truncate", bytes=900, times=2),), does="continues where it broke (HTTP Range)"),
    Case(
        fault="it ends early and looks whole, twice", rules=(rule("download", "truncate", bytes=900, clean=True, times=2),),
        does="sees that it is not whole and continues where it ended",
    ),
    Case(
        fault="it breaks off six times", rules=(rule("download", "truncate", bytes=900, times=6),), slow=True,
        does="keeps what came and continues at the next visit, in whichever process",
    ),
    Case(fault="an HTML page with status 200", rules=(rule("download", "garbage", times=3),), does="does not take it for results"),
    Case(
        fault="an HTML page with status 200, for ten minutes", rules=(rule("download", "garbage", times=9),),
        does="does not take it for results", slow=True,
    ),
    Case(
        fault="a gzip bomb of 2 GB of one line, though identity was asked for", rules=(rule("download", "gzip_bomb", size_mb=2_000, times=None),),
        does=f"{_CUT_OFF}, each time; quarantines the rows after two days, their worst case still reserved",
        slow=True, **{**_NEVER_TWICE, "step_s": 12 * _HOUR},
    ),
    Case(
        fault="a gzip bomb of 2 GB behind the good lines", rules=(rule("download", "gzip_bomb", size_mb=2_000, after_lines=True),),
        does=f"{_CUT_OFF}; the lines before it are kept",
    ),
)  # fmt: skip

# --- any call ---------------------------------------------------------------------------------------------------------

CALLS = ("upload", "create", "list", "get", "cancel", "download", "delete")
# Calls that a kind never makes: Anthropic's input goes with the create, and an input is removed before a create is sent again only where
# that fences and the create cannot be replayed.
_NEVER: Mapping[str, tuple[str, ...]] = {
    ANTHROPIC: ("upload", "delete"),
    **dict.fromkeys((*_REPLAYING, *(set(_UNFENCED) - {ANTHROPIC})), ("delete",)),
}
# What makes Keld call it.
_LEADS_TO = {"list": rule("create", "drop_after"), "delete": rule("create", "drop_before")}


def _at_every_call() -> Iterator[Case]:
    for n, (fault, do, more, does, unknown) in enumerate(_ANY_CALL):
        for m, call in enumerate(CALLS):
            on = tuple(kind for kind in KINDS if call not in _NEVER.get(kind, ()))
            times = 1 if call == "create" else more.get("times", 1)
            case = Case(
                fault=fault,
                at=call,
                rules=(*([_LEADS_TO[call]] if call in _LEADS_TO else []), rule(call, do, **{**more, "times": times})),
                does=unknown[0] if call == "create" and unknown else _FOLLOWED if (call, do) == ("download", "redirect") else does,
                creates=2 if call == "delete" else 1 if call != "create" else unknown[1] if unknown else 2,
                slow=(n + m) % 4 > 0,
            )
            if call == "cancel":
                done = _DONE_AT_CANCEL[n]
                gone = {
                    kind: {"answered": 0, "failed": ROWS, "does": f"{does}; what was answered is gone, though paid"} for kind in _LOSING
                }
                case = replace(case, cancel_s=10.0, answered=done, failed=ROWS - done, bought=done, but=gone)
            if call == "list" or (call == "create" and do == "drop_after"):
                case = replace(case, but={kind: {"creates": 2} if call == "list" else _REPLAYED[kind] for kind in _REPLAYING})
            yield replace(case, on=on)


_TRIES = "tries again later; nothing was lost by waiting"
_NOT_FOLLOWED = "does not follow it, since the key would go there; tries again later"
_FOLLOWED = "asks there without the key, where nobody answers; tries again later"
_MENDED = "reports it, keeps its place, continues when it is corrected"
_ANY_CALL: tuple[tuple[str, str, Plan, str, tuple[str, int] | None], ...] = (
    ("503, four times", "status", {"status": 503, "retry_after": 0.001, "times": 4}, _TRIES, (_AGAIN, 2)),
    ("429, four times", "status", {"status": 429, "retry_after": 0.001, "times": 4}, _TRIES, (f"{_LOOKS_THEN} sends again", 2)),
    ("an HTML page with status 200, twice", "garbage", {"times": 2}, _TRIES, (_AGAIN, 2)),
    ("a redirect to another host", "redirect", {"times": 2}, _NOT_FOLLOWED, (f"{_NOT_FOLLOWED}: {_AGAIN}", 2)),
    ("401, corrected later", "status", {"status": 401, "times": 2}, _MENDED, (f"reports it; {_LOOKS_THEN} continues when it is corrected", 2)),
    ("403, corrected later", "status", {"status": 403, "times": 2}, _MENDED, (f"reports it; {_LOOKS_THEN} continues when it is corrected", 2)),
    ("the connection closed before, four times", "drop_before", {"times": 4}, _TRIES, (_AGAIN, 2)),
    ("done, and the connection closed, four times", "drop_after", {"times": 4}, _TRIES, (_ADOPTS, 1)),
)  # fmt: skip
_DONE_AT_CANCEL = (3, 3, 5, 5, 5, 5, 3, 1)  # rows finished by the time that the cancel came through, by fault
ANY_CALL = _section("Any call", *_at_every_call())

CASES: tuple[Case, ...] = (*CREATE, *BATCH, *RESULTS, *ROW, *LINES, *DOWNLOAD, *ANY_CALL)

# --- the document -----------------------------------------------------------------------------------------------------

_HEAD = f"""# Faults

What a provider may do to a job run of {ROWS} rows, what Keld does about it, and what that costs: {len(CASES)} cases. Each one is
played by a test against an emulated provider over HTTP ([`tests/faults`](../../tests/faults)), and `make faults` writes this page from them.
A line that was not true would fail there.

*Purchases* are the rows on the provider's own bill, and *of one row* is the most of any row. Where it is more than 1, the
provider kept an answer that it billed, or it let a create land that it had not shown for as long as Keld looked. Keld reports such
rows and counts their cost.
"""
_COLUMNS = ("Fault", "Provider", "What Keld does", "Answered", "Failed", "Quarantined", "Purchases", "of one row", "Creates")


def document() -> str:
    """`docs/reference/faults.md`."""
    parts = [_HEAD]
    for section, cases in groupby(CASES, key=lambda case: case.section):
        rows = ["| " + " | ".join(_COLUMNS) + " |", "|---|---|---|" + "---:|" * 6]
        rows += ["| " + " | ".join(cells) + " |" for cells in _merged(list(cases))]
        parts.append(f"## {section}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _merged(cases: list[Case]) -> list[tuple[str, ...]]:
    """A row a case; cases that differ in the call only are one row, which names the calls."""
    calls: dict[tuple[str, ...], list[str]] = {}
    for case in (part for whole in cases for part in _parts(whole)):
        on = _at(case.on)
        numbers = (case.answered, case.failed, case.quarantined, case.bought, case.most if case.bought else 0, case.creates)
        calls.setdefault((case.fault, "" if case.at and not case.but else on, case.does, *map(str, numbers)), []).append(case.at)
    return [(fault + (f", at {', '.join(at)}" if any(at) else ""), on or "all", *rest) for (fault, on, *rest), at in calls.items()]


def _parts(case: Case) -> Iterator[Case]:
    """The case where it is as it says, and then each of the kinds where it is otherwise."""
    yield replace(case, on=tuple(kind for kind in case.on if kind not in case.but), but={})
    yield from (case.at_kind(kind) for kind in case.but)


def _at(kinds: tuple[str, ...]) -> str:
    """Which kinds, in the fewest words."""
    left = [kind for kind in KINDS if kind not in kinds]
    if not left:
        return "all"
    return f"all but {', '.join(left)}" if len(left) < len(kinds) else ", ".join(kinds)
