"""Who asks: signatures of each request, tokens that are renewed in time, and accounts whose fields come from the environment."""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import sha256

import pytest

from keld import Account, BedrockAccount, VertexAccount
from keld.emulator import Emulator
from keld.errors import AccessRefused, InvalidJob
from keld.patience import Patience
from keld.price import Lane
from keld.providers.account import completed
from keld.providers.auth import Clocks, Renewed, Token
from keld.providers.base import Denied, NotNow, SendOutcome, Settled
from keld.providers.fault import Fault, Sent
from keld.providers.kinds import preset_of
from keld.providers.part import Auth, Connection, Outgoing, Preset
from keld.providers.provider import Provider

BODY = b'{"model":"gpt-oss-120b","messages":[{"role":"user","content":"Where is my invoice?"}]}'
OUTGOING = Outgoing(method="GET", url="https://host/v1", headers={})


def server(emulator: Emulator, **parts: object) -> Provider:
    """A provider of the kind `openai_compatible` with other parts."""
    preset: Preset = replace(preset_of("openai_compatible", "own"), **parts)  # type: ignore[arg-type]  # the parts of a preset
    return Provider("own", Account(kind=preset.kind, base_url=emulator.url_of("openai_compatible")), preset, Patience())


def send(provider: Provider, *bodies: bytes) -> list[SendOutcome]:
    async def all_of_them() -> list[SendOutcome]:
        async with provider.sender("/v1/chat/completions", lambda: 30, len(bodies)) as sender:
            return await asyncio.gather(*(sender(f"{'a' * 10}-{n}", body) for n, body in enumerate(bodies)))

    return asyncio.run(all_of_them())


# --- the requests of a fast lane ----------------------------------------------------------------------------------------


class Signed:
    """Signs the body and the URL of each request."""

    def __init__(self, seen: list[Outgoing]) -> None:
        self.seen = seen

    def headers(self, outgoing: Outgoing) -> Mapping[str, str]:
        self.seen.append(outgoing)
        return {"authorization": f"Signature {sha256(outgoing.body).hexdigest()}"}

    def due(self) -> bool:
        return False

    def renew(self) -> None:
        raise AssertionError("nothing was due")


def test_each_request_of_a_fast_lane_is_signed_for_itself(emulator: Emulator) -> None:
    seen: list[Outgoing] = []
    other = BODY.replace(b"invoice", b"printer")
    outcomes = send(server(emulator, auth=lambda connection: Signed(seen)), BODY, other)
    assert [type(outcome) for outcome in outcomes] == [Settled, Settled]
    assert {(one.method, one.body) for one in seen} == {("POST", BODY), ("POST", other)}
    assert {one.url for one in seen} == {emulator.url_of("openai_compatible") + "/chat/completions"}


def test_a_fast_lane_may_have_a_url_of_its_own(emulator: Emulator) -> None:
    """Bedrock's requests go to another host than its jobs, Azure's may need a query."""
    url = emulator.url_of("openai_compatible") + "/chat/completions?api-version=1"
    (outcome,) = send(server(emulator, url=lambda connection, path: url), BODY)
    assert isinstance(outcome, Settled)
    assert outcome.answered


@pytest.fixture
def slow() -> Iterator[threading.Event]:
    """Set at the end: the threads that wait for it end."""
    event = threading.Event()
    yield event
    event.set()


def test_a_token_that_does_not_come_is_not_now_and_nothing_is_sent(emulator: Emulator, slow: threading.Event) -> None:
    """A metadata server that hangs must not hang the lane."""

    def hang() -> Token:
        slow.wait()
        return Token("t", 0)

    provider = server(emulator, auth=lambda connection: Renewed(hang, "a token", limit_s=0.1))
    (outcome,) = send(provider, BODY)
    assert outcome == NotNow(why="a token could not be had: nothing came within 0 s")
    assert emulator.requests() == []


def test_a_token_that_is_refused_stops_the_lane(emulator: Emulator) -> None:
    def refuse() -> Token:
        raise AccessRefused("The identity may not use this service.")

    (outcome,) = send(server(emulator, auth=lambda connection: Renewed(refuse, "a token")), BODY)
    assert outcome == Denied(status=401, code="access_refused", why="The identity may not use this service.")
    assert emulator.requests() == []


# --- tokens -------------------------------------------------------------------------------------------------------------


class Issuer:
    """Gives tokens t0, t1, ... that live for `life_s`; the calls in `broken` fail."""

    def __init__(self, life_s: float, broken: tuple[int, ...] = ()) -> None:
        self.life_s, self.broken, self.calls = life_s, broken, 0

    def __call__(self) -> Token:
        self.calls += 1
        if self.calls - 1 in self.broken:
            raise ConnectionRefusedError
        return Token(f"t{self.calls - 1}", time.time() + self.life_s)


class Moved:
    """The clocks of a machine on which time has passed: by the wall clock, and by the one that stands still while the machine is suspended."""

    by_s = (0.0, 0.0)

    def __call__(self) -> Clocks:
        return Clocks(time.time() + self.by_s[0], time.monotonic() + self.by_s[1])


def token_of(auth: Auth) -> str:
    if auth.due():
        auth.renew()
    return auth.headers(OUTGOING)["authorization"]


def test_a_token_is_kept_until_shortly_before_it_expires() -> None:
    issuer = Issuer(3_600)
    auth = Renewed(issuer, "a token", constant={"x-project": "p"})
    assert [token_of(auth) for _ in range(3)] == ["Bearer t0"] * 3
    assert auth.headers(OUTGOING)["x-project"] == "p"
    assert issuer.calls == 1


@pytest.mark.parametrize("by_s", [(-86_400.0, 3_500.0), (3_500.0, 0.0)], ids=["the clock was set back", "the machine was suspended"])
def test_a_token_is_renewed_when_either_clock_says_that_it_expires(by_s: tuple[float, float]) -> None:
    """By the wall clock alone, one that was set back a day sent a dead token for a day."""
    moved = Moved()
    auth = Renewed(Issuer(3_600), "a token", clocks=moved)
    assert [token_of(auth) for _ in range(2)] == ["Bearer t0"] * 2
    moved.by_s = by_s
    assert token_of(auth) == "Bearer t1"


def test_a_token_that_expires_soon_is_renewed_by_one_of_all_threads() -> None:
    issuer = Issuer(0)
    auth = Renewed(issuer, "a token")
    assert [token_of(auth) for _ in range(2)] == ["Bearer t0", "Bearer t1"]
    issuer.life_s = 3_600
    threads = [threading.Thread(target=auth.renew) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert token_of(auth) == "Bearer t2"


def test_a_failed_renewal_leaves_the_old_token_while_it_is_good() -> None:
    issuer = Issuer(0.0, broken=(1,))
    auth = Renewed(issuer, "a token")
    assert token_of(auth) == "Bearer t0"
    with pytest.raises(Fault, match="a token could not be had: the connection was refused") as failed:
        token_of(auth)
    assert failed.value.sent is Sent.NO
    moved = Moved()
    kept = Renewed(Issuer(3_600, broken=(1,)), "a token", clocks=moved)
    assert token_of(kept) == "Bearer t0"
    moved.by_s = (3_400.0, 3_400.0)
    assert token_of(kept) == "Bearer t0"
    assert not kept.due(), "it is not tried again for each request"


def test_a_renewal_that_hangs_holds_up_only_one_request_while_the_old_token_is_good(slow: threading.Event) -> None:
    """The threads that wait for it are those in which answers are written to disk."""
    issuer, renewing = Issuer(3_600), threading.Event()

    def fetch() -> Token:
        if issuer.calls:
            renewing.set()
            slow.wait()
        return issuer()

    moved = Moved()
    auth = Renewed(fetch, "a token", limit_s=600, clocks=moved)
    assert token_of(auth) == "Bearer t0"
    moved.by_s = (3_400.0, 3_400.0)  # less than five minutes before its end
    one = threading.Thread(target=auth.renew, daemon=True)
    one.start()
    assert renewing.wait(30)
    others = [threading.Thread(target=auth.renew, daemon=True) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join(15)
    assert not any(other.is_alive() for other in others)
    assert auth.headers(OUTGOING)["authorization"] == "Bearer t0"
    slow.set()
    one.join(30)
    assert token_of(auth) == "Bearer t1"


def test_a_token_is_not_in_the_text_of_what_holds_it() -> None:
    from keld.providers.part import Fixed

    assert "secret" not in repr(Fixed({"authorization": "Bearer secret"}))


# --- accounts -----------------------------------------------------------------------------------------------------------

VARIABLES = {"project": "GOOGLE_CLOUD_PROJECT", "location": "GOOGLE_CLOUD_LOCATION"}


def test_an_empty_field_of_an_account_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p-env")
    given = VertexAccount(location="us-central1")
    assert completed(given, VARIABLES) == VertexAccount(project="p-env", location="us-central1")
    assert completed(VertexAccount(project="p", location="l"), VARIABLES) == VertexAccount(project="p", location="l")
    with pytest.raises(InvalidJob, match=r"needs location= \(or GOOGLE_CLOUD_LOCATION\). Nothing was sent.*keld.VertexAccount"):
        completed(VertexAccount(), VARIABLES)


def test_two_regions_are_two_hosts_for_the_ledger() -> None:
    """Else the batches of one would be looked for, and believed lost, in the other."""
    preset = replace(
        preset_of("openai", "one"),
        account=BedrockAccount,
        base_url=lambda account: f"https://bedrock.{account.region}.example",  # type: ignore[attr-defined]  # of BedrockAccount
        scope=lambda account: f"/{account.role}",  # type: ignore[attr-defined]  # of BedrockAccount
    )
    role = "arn:aws:iam::123456789012:role/r"
    hosts = [Provider("one", BedrockAccount(region=region, role=role), preset, Patience()).host for region in ("eu-west-1", "us-east-1")]
    assert hosts == [f"https://bedrock.eu-west-1.example/{role}", f"https://bedrock.us-east-1.example/{role}"]


def test_an_address_made_from_an_account_sees_what_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://resource.example")
    preset = replace(preset_of("openai", "one"), base_url=lambda account: f"{account.base_url}/openai/v1")
    provider = Provider("one", Account(kind="openai"), preset, Patience())
    assert provider._connection.base_url == "https://resource.example/openai/v1"


@pytest.mark.parametrize("factor", [0, -1, 1.1, "1.1"])
def test_a_price_factor_that_is_no_decimal_is_refused(factor: object) -> None:
    with pytest.raises(InvalidJob, match="price_factor="):
        Account(kind="openai", price_factor=factor)  # type: ignore[arg-type]  # what users write


def test_the_lane_may_be_named_in_a_header(emulator: Emulator) -> None:
    """Bedrock's InvokeModel knows flex by a header."""
    seen: list[Outgoing] = []
    provider = server(emulator, auth=lambda connection: Signed(seen))

    async def once() -> SendOutcome:
        async with provider.sender("/v1/chat/completions", lambda: 30, 1, {"x-tier": Lane.FLEX.value}) as sender:
            return await sender("a" * 10 + "-1", BODY)

    assert isinstance(asyncio.run(once()), Settled)
    assert seen[0].headers["x-tier"] == "flex"


def test_a_connection_makes_its_auth_at_the_first_request() -> None:
    """A job may name an account whose key is not there, as long as it is not used."""

    def no_key(connection: Connection) -> Auth:
        raise AccessRefused("No key.")

    preset = replace(preset_of("openai_compatible", "own"), auth=no_key)
    Provider("own", Account(kind="openai_compatible", base_url="https://host.example/v1"), preset, Patience()).close()
