"""Health: what would stop a job at one account, found by calls that are not paid: its settings, key, address, clock, bucket, models and prices.

Beside `provider`, which calls it.  Nothing is asked of a model here.  A bucket gets one object of a few bytes, which is removed again.
"""

from __future__ import annotations

import difflib
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import msgspec

from keld.errors import AccessRefused, InvalidJob, KeldError
from keld.objects import AccessDenied, Bucket, Credentials, NoSuchObject, ObjectError, WrongRegion
from keld.price import Lane, Rates
from keld.providers.base import Quota
from keld.providers.check import Check, CheckState
from keld.providers.fault import Fault, Meaning, meaning, placed, unreadable
from keld.providers.part import Connection, Preset, Probe
from keld.providers.transports.rest import Rest
from keld.providers.word import reply_words

# The search for a lost batch allows for five minutes between two clocks, and so do signatures of AWS.
_SKEW_MOST, _SKEW_NOTED = timedelta(minutes=5), timedelta(seconds=30)
_BUCKET_CALL_S = 10.0
_SHOWN = 5  # names in a finding, at most
# Between what is wrong and what to do; the second of what may also be found while a batch is out.
_NOTHING = re.compile(r" (?:Nothing was sent|No call was made)\. ")


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The account that is examined.

    Args:
        list_batches: asks for the first page of its list of batches; raises `KeldError`.
        rates: (model, lane) -> its prices, or None.
        place: what to check if no host has its name, as a clause.
    """

    name: str
    host: str
    preset: Preset
    connection: Connection
    list_batches: Callable[[], object]
    rates: Callable[[str, Lane], Rates | None]
    place: Callable[[], str]

    def check(self, what: str, state: CheckState, finding: str, fix: str = "") -> Check:
        return Check(subject=self.name, what=what, state=state, finding=finding, fix=fix)


@dataclass(slots=True)
class _Seen:
    """What the reply to the probe says."""

    date: str = ""
    names: Collection[str] | None = None
    quotas: dict[str, Quota] = field(default_factory=dict)


def examine(subject: Subject, model: str | None, clock: Callable[[], datetime]) -> Iterator[Check]:
    """The findings about an account, one by one; see `Keld.doctor`."""
    seen = _Seen()
    yield _reached(subject, seen)
    if seen.date and (skewed := _clock(subject, seen.date, clock())) is not None:
        yield skewed
    if address := subject.preset.bucket(subject.connection.account):
        yield _own_bucket(subject, address)
    if seen.names is not None:
        yield _models(subject, seen.names, model)
    yield from _prices(subject, seen.names, model)
    yield from _quotas(subject, seen.quotas)


def refused(name: str, what: str, error: KeldError) -> Check:
    """The finding of an error whose message says what happened, what was sent, and what to do."""
    finding, *fix = _NOTHING.split(str(error), maxsplit=1)
    return Check(subject=name, what=what, state=CheckState.PROBLEM, finding=finding, fix="".join(fix))


# -- address and key ------------------------------------------------------------------------------------------


def _reached(subject: Subject, seen: _Seen) -> Check:
    """Whether the host answers and accepts the key; what its reply says goes to `seen`."""
    preset = subject.preset
    if preset.probe is None and preset.batches is None:
        return subject.check("address", CheckState.NOTE, f"Nothing was asked of {subject.host}: its kind names no call that is not paid.")
    try:
        if preset.probe is None:
            subject.list_batches()
        else:
            _probe(subject, preset.probe, seen)
    except Fault as fault:
        seen.date = fault.date
        return _unreached(subject, fault)
    except KeldError as error:
        return refused(subject.name, "key" if isinstance(error, AccessRefused) else "address", error)
    return subject.check("key", CheckState.OK, f"{subject.host} answers and accepts the key.")


def _probe(subject: Subject, probe: Probe, seen: _Seen) -> None:
    """Raises:
    Fault: the host does not answer, or refuses.
    """
    rest = Rest(subject.connection, subject.preset.auth, subject.preset.error_in)
    try:
        reply = rest.ask("GET", probe.path_of(subject.connection.account))
    finally:
        rest.close()
    seen.date, seen.quotas = reply.headers.get("date", ""), subject.preset.quotas(reply.headers)
    try:
        body = msgspec.json.decode(reply.content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise unreadable(reply.status_code)
    seen.names = None if probe.names is None else probe.names(body)


def _unreached(subject: Subject, fault: Fault) -> Check:
    account, preset, host = subject.connection.account, subject.preset, subject.host
    variable = account.api_key_env or preset.api_key_env
    address = f"base_url= of the account{f' or {preset.base_url_env}' if preset.base_url_env else ''}"
    said = reply_words(fault.status, fault.code)
    if fault.status is None:
        cause, _, told = placed(fault.cause, subject.place).partition("; ")  # what to do, where the cause shows it
        fix = f"{told[0].upper()}{told[1:]}." if told else f"Correct {address}, or let this machine reach it."
        return subject.check("address", CheckState.PROBLEM, f"{host} cannot be reached: {cause}.", fix)
    if fault.cause:
        return subject.check("address", CheckState.PROBLEM, f"{host} gives a page that is not of its API.", f"Correct {address}.")
    match meaning(fault, preset.codes):
        case Meaning.ACCESS:
            where = "what api_key= of the account gives" if account.api_key is not None else variable or "the credentials"
            fix = f"Correct {where}, and check the project, the rights and the billing of the account."
            return subject.check("key", CheckState.PROBLEM, f"{host} refuses the key: {said}.", fix)
        case Meaning.REDIRECT:
            return subject.check("address", CheckState.PROBLEM, f"{host} redirects to another address: {said}.", f"Correct {address}.")
        case Meaning.QUEUE_FULL | Meaning.NOT_DONE:
            return subject.check("quota", CheckState.NOTE, f"{host} takes no more calls at present: {said}.", "Run it again later.")
        case Meaning.UNKNOWN if fault.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return subject.check("address", CheckState.NOTE, f"{host} has a fault of its own at present: {said}.", "Run it again later.")
        case _:
            path = preset.probe.path_of(account).partition("?")[0] if preset.probe is not None else "its API"
            fix = f"Correct {address}: most often a part of its path is missing, such as /v1."
            return subject.check("address", CheckState.PROBLEM, f"{host} does not have {path}: {said}.", fix)


def _clock(subject: Subject, date: str, now: datetime) -> Check | None:
    """Whether this machine's clock agrees with the host's; None: the host's cannot be read."""
    try:
        skew = now - parsedate_to_datetime(date)
    except (ValueError, TypeError):
        return None
    seconds = abs(skew.total_seconds())
    span = f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
    finding = f"This machine's clock is {span} {'ahead of' if skew > timedelta() else 'behind'} that of {subject.host}."
    if abs(skew) <= _SKEW_NOTED:
        return subject.check("clock", CheckState.OK, f"This machine's clock agrees with that of {subject.host}.")
    state = CheckState.PROBLEM if abs(skew) >= _SKEW_MOST else CheckState.NOTE
    return subject.check(
        "clock", state, finding, "Let the machine set its clock by NTP: signatures, deadlines and the search for lost batches need it."
    )


# -- bucket ---------------------------------------------------------------------------------------------------


def _own_bucket(subject: Subject, address: str) -> Check:
    """Whether the account's bucket can be used, opened as the transport opens it."""
    credentials = subject.preset.bucket_credentials
    try:
        options = subject.preset.bucket_options(subject.connection)
    except AccessRefused as error:
        return refused(subject.name, "bucket", error)
    except Fault as fault:
        return subject.check("bucket", CheckState.PROBLEM, f"The bucket {address} cannot be opened: {fault.cause}.", "Run it again later.")
    return bucket_check(subject.name, "bucket", address, options, None if credentials is None else credentials(subject.connection))


def bucket_check(
    subject: str, what: str, address: str, options: Mapping[str, str] | None = None, credentials: Credentials | None = None
) -> Check:
    """Whether an object can be written, read, listed and removed in a bucket; `options` and `credentials` as of `Bucket.at`."""

    def check(state: CheckState, finding: str, fix: str = "") -> Check:
        return Check(subject=subject, what=what, state=state, finding=finding, fix=fix)

    doing, name = "opened", f"keld-doctor-{secrets.token_hex(8)}"
    try:
        bucket = Bucket.at(address, options, call_s=_BUCKET_CALL_S, credentials=credentials)
        content = name.encode()
        doing = "written to"
        bucket.put(name, content)
        doing = "read from"
        same = bucket.read(name) == content
        doing = "listed"
        same = same and next(bucket.names(), None) is not None
        doing = "cleared"
        bucket.delete(name)
    except ObjectError as error:
        return check(CheckState.PROBLEM, f"The bucket {address} cannot be {doing}: {error.why}.", _bucket_fix(error))
    except InvalidJob as error:
        return refused(subject, what, error)
    if not same:
        return check(CheckState.PROBLEM, f"The bucket {address} gives back other bytes than were written.", "Use another bucket.")
    return check(CheckState.OK, f"Objects in {address} can be written, read, listed and removed.")


def _bucket_fix(error: ObjectError) -> str:
    match error:
        case AccessDenied():
            return "Allow these credentials to put, get, list and delete objects there."
        case WrongRegion():
            return "Set the region of the bucket (AWS_REGION, or region= of the account), or use a bucket in that region."
        case NoSuchObject():
            return "Make the bucket, or correct its address."
        case _:
            return "Check the name and the region of the bucket, and whether this machine reaches it."


# -- models and prices ----------------------------------------------------------------------------------------


def _models(subject: Subject, names: Collection[str], model: str | None) -> Check:
    if model is None:
        return subject.check("models", CheckState.OK, f"{len(names):,} models are listed.")
    asked = subject.preset.deployment(model, Lane.STANDARD)
    probe = subject.preset.probe
    if probe is not None and probe.serves(names, asked):
        return subject.check("models", CheckState.OK, f"{asked} is served.")
    near = difflib.get_close_matches(asked, list(names), _SHOWN, 0.4) or sorted(names)[:_SHOWN]
    fix = f"Correct the name in models=: {', '.join(near)}." if near else "Correct the name in models=."
    return subject.check("models", CheckState.PROBLEM, f"{asked} is not among the {len(names):,} models that {subject.host} lists.", fix)


def _prices(subject: Subject, names: Collection[str] | None, model: str | None) -> Iterator[Check]:
    """Whether the models have a known price, since no other model is run."""
    lanes = [lane for lane in Lane if lane in subject.preset.traits.lanes]
    fix = "Give the job a rate: prices={'account:model': {'input': USD per million tokens, 'output': ...}}."
    if model is not None:
        known = [lane.value for lane in lanes if subject.rates(model, lane) is not None]
        if known:
            yield subject.check("price", CheckState.OK, f"The price of {model} is known in the lanes {', '.join(known)}.")
        else:
            yield subject.check("price", CheckState.PROBLEM, f"No price of {model} is known, so it is not run.", fix)
    elif names:
        priced = [name for name in names if any(subject.rates(name, lane) is not None for lane in lanes)]
        state = CheckState.OK if priced else CheckState.NOTE
        yield subject.check("price", state, f"The price of {len(priced):,} of these {len(names):,} models is known.", "" if priced else fix)


def _quotas(subject: Subject, quotas: dict[str, Quota]) -> Iterator[Check]:
    for kind, quota in quotas.items():
        state = CheckState.OK if quota.left > 0 else CheckState.NOTE
        yield subject.check("quota", state, f"{quota.left:,.0f} of {quota.limit:,.0f} {kind} are left for now.")
