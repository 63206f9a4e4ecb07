"""Doctor: what would stop a job in this environment: its accounts, ledger and staging, each examined by calls that are not paid.

Beside the road, between `accounts` and `environment`.  It decides nothing and changes nothing: what it writes it removes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import make_url

from keld import http
from keld.errors import InvalidJob, KeldError
from keld.ledger import Ledger, is_missing, rehearse, shown
from keld.patience import Patience
from keld.providers.account import ACCOUNTS, Account, account_names
from keld.providers.check import Check, CheckState
from keld.providers.health import bucket_check, refused
from keld.providers.provider import connect
from keld.staging import Staging

# A look at a healthy host takes a second; each of the few calls to one that is not ends after this.
_PATIENCE = Patience(call_s=10.0, reply_s=10.0, stall_s=10.0)
_LEAST_FREE_BYTES = 1 << 30
_SHOWN = 20
# A misspelt one is not read, and its default holds without a word: a ledger in each pod, say.  An account's key may have any name (`api_key_env`).
_VARIABLES = (
    "KELD_BEDROCK_BUCKET",
    "KELD_BEDROCK_ROLE",
    "KELD_EMULATOR_TOKEN",
    "KELD_FAILPOINT",
    "KELD_HOME",
    "KELD_LEDGER_URL",
    "KELD_NAMESPACE",
    "KELD_ON_EVENT",
    "KELD_SCRATCH",
    "KELD_SELF_HOSTED_URL",
    "KELD_STAGING",
    "KELD_TELEMETRY",
    "KELD_VERTEX_BUCKET",
)


def examine(
    known: Mapping[str, Account],
    only: str | None,
    *,
    clock: Callable[[], datetime],
    ledger_url: str,
    staging: Staging,
    budget_s: float,
) -> Iterator[Check]:
    """The findings, one by one; see `Keld.doctor`.

    Raises:
        InvalidJob: `only` names no account.
    """
    until = time.monotonic() + budget_s
    yield from _misspelt(os.environ)
    yield _ledger(ledger_url)
    yield _staging(staging)
    if only is not None:
        name, _, model = only.partition(":")
        if name not in known:
            raise InvalidJob(f"No account has the name {name!r}; {account_names(name, known)}. Nothing was sent. Correct it.")
        with _within(until):
            yield from _account(name, known[name], model or None, clock)
        return
    missing: list[str] = []
    for name, account in sorted(known.items()):
        if account is ACCOUNTS.get(name) and not _is_set_up(name, account):
            missing.append(name)  # nobody has asked for it: it is there for all
            continue
        if time.monotonic() > until:
            yield Check(
                subject=name,
                what="address",
                state=CheckState.NOTE,
                finding="The time was over before it was looked at.",
                fix=f"keld doctor {name}",
            )
            continue
        with _within(until):
            yield from _account(name, account, None, clock)
    yield from _missing(missing, len(known))


@contextmanager
def _within(until: float) -> Iterator[None]:
    with http.within(max(until, time.monotonic() + _PATIENCE.call_s)):
        yield


def _account(name: str, account: Account, model: str | None, clock: Callable[[], datetime]) -> Iterator[Check]:
    try:
        provider = connect(name, account, _PATIENCE)
    except KeldError as error:
        yield refused(name, "settings", error)
        return
    try:
        provider.ready()
    except KeldError as error:
        yield refused(name, "key", error)
        return
    try:
        yield from provider.examine(model, clock)
    finally:
        provider.close()


def _is_set_up(name: str, account: Account) -> bool:
    """True if the environment has what an account that is there from the start needs; makes no call."""
    try:
        provider = connect(name, account, _PATIENCE)
        try:
            provider.ready()
        finally:
            provider.close()
    except KeldError:
        return False
    return True


def _missing(names: list[str], known: int) -> Iterator[Check]:
    """The accounts that are not set up, in one finding."""
    if not names:
        return
    state = CheckState.PROBLEM if len(names) == known else CheckState.NOTE
    finding = f"Not set up here: {', '.join(names[:_SHOWN])}."
    fix = "`keld doctor ACCOUNT` says what one of them lacks."
    if state is CheckState.PROBLEM:
        finding, fix = f"No account is set up here; the accounts are {', '.join(names[:_SHOWN])}.", f"Set the key of one of them: {fix}"
    yield Check(subject="accounts", what="settings", state=state, finding=finding, fix=fix)


def _misspelt(names: Iterable[str]) -> Iterator[Check]:
    for name in sorted(names):
        meant = get_close_matches(name, _VARIABLES, 1, 0.8) if name.startswith("KELD") and name not in _VARIABLES else []
        if meant:
            finding = f"{name} is set, and is no variable of Keld's: nothing reads it."
            yield Check(
                subject="environment", what="settings", state=CheckState.NOTE, finding=finding, fix=f"Set {meant[0]}, if that was meant."
            )


def _ledger(url: str) -> Check:
    missing, is_file = is_missing(url), url.startswith("sqlite")
    if missing and is_file:
        return _ledger_to_be(url)
    try:
        if missing:
            rehearse(url)
            return _made_later(url)
        with closing(Ledger(url)) as ledger:
            ledger.check_writable()
    except KeldError as error:
        return refused("ledger", "ledger", error)
    return Check(subject="ledger", what="ledger", state=CheckState.OK, finding=f"The ledger at {shown(url)} can be read and written.")


def _ledger_to_be(url: str) -> Check:
    """Whether a ledger can be made where there is none yet: another one is, beside it, and removed."""
    place = _existing(Path(str(make_url(url).database)).absolute().parent)
    try:
        with TemporaryDirectory(prefix=".keld-doctor-", dir=place) as directory, closing(Ledger(f"sqlite:///{directory}/ledger.db")):
            pass
    except (KeldError, OSError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        return Check(
            subject="ledger",
            what="ledger",
            state=CheckState.PROBLEM,
            finding=f"There is no ledger at {shown(url)}, and none can be made in {place}: {why}.",
            fix="Correct KELD_HOME or KELD_LEDGER_URL, the rights of that directory, or the disk.",
        )
    return _made_later(url)


def _made_later(url: str) -> Check:
    finding = f"There is no ledger at {shown(url)} yet; the first job run makes it."
    return Check(subject="ledger", what="ledger", state=CheckState.OK, finding=finding)


def _existing(path: Path) -> Path:
    """The path, or the nearest one above it that exists."""
    return next((one for one in (path, *path.parents) if one.exists()), path)


def _staging(staging: Staging) -> Check:
    return _directory(staging.root) if staging.store is None else bucket_check("staging", "staging", staging.store.bucket.uri)


def _directory(root: Path) -> Check:
    def check(state: CheckState, finding: str, fix: str = "") -> Check:
        return Check(subject="staging", what="staging", state=state, finding=finding, fix=fix)

    place = _existing(root)
    probe = place / f".doctor-{secrets.token_hex(8)}"
    try:
        probe.write_bytes(b"keld")
        probe.read_bytes()
        probe.unlink()
        free = shutil.disk_usage(place).free
    except OSError as error:
        finding = f"Staging at {root} cannot be written: {os.strerror(error.errno) if error.errno else type(error).__name__}."
        return check(CheckState.PROBLEM, finding, "Correct KELD_HOME, the rights of that directory, or the disk.")
    if free < _LEAST_FREE_BYTES:
        finding = f"Staging at {root} has {free / 1e6:,.0f} MB left on its disk."
        return check(CheckState.NOTE, finding, "Make room, or remove what is old: keld gc.")
    return check(CheckState.OK, f"Staging at {root} can be read and written.")
