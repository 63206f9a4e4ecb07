"""The doctor: a set-up that is broken in one place, and the sentence that says so; nothing that is paid is ever sent."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from keld import Account, Check, CheckState, Keld, SelfHostedAccount
from keld.cli.command import app
from keld.emulator import Emulator
from keld.errors import InvalidJob
from keld.ledger import Ledger
from keld.objects import Bucket
from keld.providers.kinds import BUILT_IN
from keld.providers.provider import connect
from tests.support.ticket_job import fault

# A model that each kind's emulator has.
MODELS = {
    "openai": "gpt-5-mini",
    "anthropic": "claude-haiku-4-5",
    "azure": "",
    "bedrock": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "gemini": "gemini-2.5-flash",
    "mistral": "mistral-small-latest",
    "vertex": "",
    "groq": "openai/gpt-oss-20b",
    "together": "openai/gpt-oss-120b",
    "openrouter": "openai/gpt-5-mini",
    "xai": "grok-3-mini",
    "fireworks": "accounts/fireworks/models/gpt-oss-20b",
    "deepinfra": "",
    "openai_compatible": "",
    "self_hosted": "",
}


@pytest.fixture(params=[kind for kind in BUILT_IN if kind in MODELS])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Open = Callable[..., Keld]


@pytest.fixture
def open_keld(emulator: Emulator, tmp_path: Path) -> Open:
    def start(**how: Any) -> Keld:
        server = emulator.url_of("openai_compatible")
        own = {"openai_compatible": Account(kind="openai_compatible", base_url=server), "self_hosted": SelfHostedAccount(base_url=server)}
        accounts = {**own, **how.pop("accounts", {})}
        return Keld(**{"home": tmp_path / "home", "clock": emulator.now, "accounts": accounts, **how})

    return start


def told(keld: Keld, account: str | None = None) -> dict[str, Check]:
    """The findings about an account, by what was checked; no model was asked."""
    with keld:
        found = keld.doctor(account)
    name = (account or "").partition(":")[0]
    return {check.what: check for check in found if check.subject == name}


def check_unpaid(emulator: Emulator) -> None:
    """Nothing but reading, and one object in a bucket."""
    assert {call.method for call in emulator.requests() if not call.path.startswith(("/s3/", "/gcs/"))} == {"GET"}
    assert emulator.bill() == []
    assert emulator.batches() == []


# --- a set-up that works ----------------------------------------------------------------------------------------------


def test_an_account_that_works_has_no_problem(open_keld: Open, emulator: Emulator, kind: str) -> None:
    found = told(open_keld(), f"{kind}:{MODELS[kind]}".rstrip(":"))
    assert [check for check in found.values() if check.state is CheckState.PROBLEM] == []
    assert (found["key"].state, found["clock"].state) == (CheckState.OK, CheckState.OK)
    assert ("bucket" in found) == (kind in ("bedrock", "vertex"))
    check_unpaid(emulator)


def test_ledger_and_staging_are_looked_at_first_and_leave_nothing_behind(open_keld: Open, tmp_path: Path) -> None:
    with open_keld() as keld:
        seen: list[Check] = []
        found = keld.doctor("openai", progress=seen.append)
    assert [check.subject for check in found] == [check.subject for check in seen] and found[0].subject == "ledger"
    assert [check.state for check in found[:2]] == [CheckState.OK, CheckState.OK]
    assert not list((tmp_path / "home").glob("*"))


def test_accounts_that_nobody_has_set_up_are_named_together(open_keld: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("XAI_API_KEY")
    with open_keld() as keld:
        found = keld.doctor()
    (note,) = [check for check in found if check.subject == "accounts"]
    assert note.state is CheckState.NOTE
    assert "openai," in note.finding and "xai" in note.finding and "anthropic" not in note.finding
    assert {"anthropic", "mistral", "self_hosted"} <= {check.subject for check in found}


# --- the environment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"), [("KELD_LEDGR_URL", "KELD_LEDGER_URL"), ("KELD_STAGGING", "KELD_STAGING"), ("KELDHOME", "KELD_HOME")]
)
def test_a_misspelt_variable_is_noticed_since_its_default_holds_without_a_word(
    open_keld: Open, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "postgresql://keld:hunter2@db/keld")
    monkeypatch.setenv("KELD_TEAM_KEY", "an account's own, by `api_key_env`")
    note, *others = open_keld().doctor("openai")
    assert (note.subject, note.state) == ("environment", CheckState.NOTE)
    assert name in note.finding and meant in note.fix and "hunter2" not in note.finding + note.fix
    assert "environment" not in {check.subject for check in others}


def test_a_role_without_the_right_to_the_sequence_of_events_is_noticed(open_keld: Open, postgres: Callable[[], str]) -> None:
    """`GRANT ... ON ALL TABLES` leaves it out; `keld run` then ended with `permission denied for sequence keld_event_id_seq`."""
    owner = sa.make_url(postgres())
    Ledger(str(owner.render_as_string(hide_password=False))).close()
    with sa.create_engine(owner.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT").connect() as db:
        db.execute(sa.text("CREATE ROLE worker LOGIN"))
        db.execute(sa.text("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker"))
    url = owner.set(username="worker").render_as_string(hide_password=False)
    found = {check.subject: check for check in open_keld(ledger_url=url).doctor("openai")}
    assert found["ledger"].state is CheckState.PROBLEM and "permission denied for sequence" in found["ledger"].finding
    with sa.create_engine(owner.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT").connect() as db:
        db.execute(sa.text("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO worker"))
    found = {check.subject: check for check in open_keld(ledger_url=url).doctor("openai")}
    assert found["ledger"].state is CheckState.OK


# --- one thing that is broken -----------------------------------------------------------------------------------------

# Hosts that need no key, and those whose key is not one text.
KEYED = {kind for kind in MODELS if kind not in ("openai_compatible", "self_hosted", "bedrock", "vertex")}


@pytest.mark.parametrize("kind", sorted(KEYED))
def test_a_wrong_key(open_emulator: Callable[..., Emulator], open_keld: Open, kind: str) -> None:
    emulator = open_emulator(api_keys=["another"])
    account = open_keld().accounts[kind]
    found = told(open_keld(clock=emulator.now, accounts={"mine": _with(account, api_key=lambda: "wrong-key")}), "mine")
    assert found["key"].state is CheckState.PROBLEM
    assert " refuses the key: HTTP 40" in found["key"].finding
    assert "Correct what api_key= of the account gives" in found["key"].fix
    assert "wrong-key" not in str(found)
    check_unpaid(emulator)


@pytest.mark.parametrize(("kind", "variable"), [("bedrock", "AWS_ACCESS_KEY_ID"), ("vertex", "GOOGLE_OAUTH_ACCESS_TOKEN")])
def test_wrong_credentials_of_a_cloud(
    open_emulator: Callable[..., Emulator], open_keld: Open, monkeypatch: pytest.MonkeyPatch, kind: str, variable: str
) -> None:
    emulator = open_emulator(api_keys=["another"])
    monkeypatch.setenv(variable, "wrong-key")
    found = told(open_keld(clock=emulator.now), kind)
    assert found["key"].state is CheckState.PROBLEM
    assert " refuses the key: HTTP 40" in found["key"].finding
    assert "wrong-key" not in str(found)


def test_a_missing_key(open_keld: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    (problem,) = told(open_keld(), "mistral").values()
    assert (problem.what, problem.state) == ("key", CheckState.PROBLEM)
    assert problem.finding == "No key for mistral: the environment variable MISTRAL_API_KEY is not set."
    assert problem.fix


def test_missing_settings(open_keld: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KELD_BEDROCK_ROLE")
    (problem,) = told(open_keld(), "bedrock").values()
    assert (problem.what, problem.state) == ("settings", CheckState.PROBLEM)
    assert "needs role= (or KELD_BEDROCK_ROLE)" in problem.finding


@pytest.mark.parametrize("kind", ["openai", "azure", "bedrock", "vertex", "mistral", "self_hosted"])
def test_an_address_where_nobody_listens(open_keld: Open, kind: str) -> None:
    account = _with(open_keld().accounts[kind], base_url="http://127.0.0.1:9")
    found = told(open_keld(accounts={"mine": account}), "mine")
    assert found["address"].state is CheckState.PROBLEM
    assert "cannot be reached: the connection was refused" in found["address"].finding
    assert "Correct base_url= of the account" in found["address"].fix


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ALL_PROXY", "socks5://user:canary@127.0.0.1:9", "is a SOCKS proxy, which needs the package socksio."),
        ("HTTPS_PROXY", "ftp://user:canary@127.0.0.1:9", "is no address of a proxy."),
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "SSL_CERT_FILE of the environment names no readable file of certificates."),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE of the environment names no readable file of certificates."),
    ],
)
def test_a_proxy_or_certificates_of_the_environment_that_cannot_be_used(
    open_keld: Open, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    address = told(open_keld(), "openai")["address"]
    assert address.state is CheckState.PROBLEM
    assert address.finding.endswith(said) and "canary" not in str(address)
    assert "unset" in address.fix


@pytest.mark.parametrize(("spared", "named"), [("", True), ("127.0.0.1", False)])
def test_a_proxy_that_is_down_is_named_as_what_stands_between(
    open_keld: Open, monkeypatch: pytest.MonkeyPatch, spared: str, named: bool
) -> None:
    """Of a host that is up, "nothing listens there" is no help."""
    for name in ("http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://user:canary@127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", spared)
    found = told(open_keld(), "openai")
    assert ("address" in found) == named  # else all is well
    said = " ".join(check.finding for check in found.values())
    assert ("by way of the proxy that HTTP_PROXY names" in said) == named and "canary" not in said


def test_a_server_of_ones_own_behind_a_proxy_that_cannot_be_used_has_no_list_of_models(
    open_keld: Open, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked before a run begins, and a run goes on without it: the first request says what is wrong."""
    provider = connect("mine", SelfHostedAccount(base_url=emulator.url_of("openai_compatible")))
    assert provider.served().names is not None
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    assert provider.served().names is None and provider.slots() is None


def test_a_name_that_no_host_has_is_told_with_the_setting_that_it_comes_from(open_keld: Open) -> None:
    """At a cloud this is the region or the location (`Preset.place`), not an address that nobody has set."""
    address = told(open_keld(accounts={"mine": Account(kind="openai", base_url="https://llm.invalid/v1")}), "mine")["address"]
    assert address.finding == "https://llm.invalid cannot be reached: its name is not known (DNS)."
    assert address.fix == "Check base_url= of the account or OPENAI_BASE_URL."


def test_an_address_with_a_wrong_path(open_keld: Open, emulator: Emulator) -> None:
    found = told(open_keld(accounts={"mine": Account(kind="openai", base_url=f"{emulator.url}/v0")}), "mine")
    assert found["address"].state is CheckState.PROBLEM
    assert "does not have /models: HTTP 404" in found["address"].finding


def test_a_page_of_a_proxy(open_keld: Open, emulator: Emulator) -> None:
    fault(emulator, "get", "garbage", times=None)
    assert "gives a page that is not of its API" in told(open_keld(), "openai")["address"].finding


def test_a_redirect_is_not_followed_with_the_key(open_keld: Open, emulator: Emulator) -> None:
    with Emulator(frozen=True) as other:
        fault(emulator, "get", "redirect", location=f"{other.url}/v1/models", times=None)
        assert "redirects to another address: HTTP 307" in told(open_keld(), "openai")["address"].finding
        assert other.requests() == []


def test_a_host_with_a_fault_of_its_own_is_no_problem_of_the_set_up(open_keld: Open, emulator: Emulator) -> None:
    fault(emulator, "get", "status", status=503, times=None)
    assert told(open_keld(), "openai")["address"].state is CheckState.NOTE


@pytest.mark.parametrize(("minutes", "state"), [(10, CheckState.PROBLEM), (-10, CheckState.PROBLEM), (2, CheckState.NOTE)])
def test_a_clock_that_is_wrong(open_keld: Open, emulator: Emulator, minutes: int, state: CheckState) -> None:
    clock = told(open_keld(clock=lambda: emulator.now() + timedelta(minutes=minutes)), "openai")["clock"]
    assert clock.state is state
    assert f"{abs(minutes)} min {'ahead of' if minutes > 0 else 'behind'}" in clock.finding


def test_a_clock_that_is_wrong_is_told_also_where_the_host_refuses(open_keld: Open, emulator: Emulator) -> None:
    """A signature fails by it."""
    fault(emulator, "get", "status", status=403, times=None)
    found = told(open_keld(clock=lambda: emulator.now() + timedelta(hours=1)), "openai")
    assert (found["key"].state, found["clock"].state) == (CheckState.PROBLEM, CheckState.PROBLEM)


@pytest.mark.parametrize("kind", sorted(kind for kind, model in MODELS.items() if model))
def test_a_model_that_the_host_does_not_have(open_keld: Open, kind: str) -> None:
    models = told(open_keld(), f"{kind}:{MODELS[kind]}x")["models"]
    assert models.state is CheckState.PROBLEM
    assert f"{MODELS[kind]}x is not among the " in models.finding
    assert MODELS[kind].removeprefix("us.")[:14] in models.fix


def test_a_model_without_a_price(open_keld: Open) -> None:
    price = told(open_keld(), "deepinfra:openai/gpt-oss-20b")["price"]
    assert price.state is CheckState.PROBLEM
    assert price.finding == "No price of openai/gpt-oss-20b is known, so it is not run."


@pytest.mark.parametrize(("at", "doing"), [("upload", "written to"), ("download", "read from"), ("list", "listed"), ("delete", "cleared")])
@pytest.mark.parametrize(
    ("kind", "store", "address"), [("bedrock", "s3", "s3://keld-emulator/bedrock"), ("vertex", "gcs", "gs://keld-emulator/vertex")]
)
def test_a_bucket_without_rights(open_keld: Open, emulator: Emulator, kind: str, store: str, address: str, at: str, doing: str) -> None:
    fault(emulator, at, "status", status=403, times=None, match={"provider": store})
    bucket = told(open_keld(), kind)["bucket"]
    assert bucket.state is CheckState.PROBLEM
    assert bucket.finding == f"The bucket {address} cannot be {doing}: the credentials do not allow this."
    assert "Allow these credentials to put, get, list and delete" in bucket.fix


def test_the_probe_object_is_removed(open_keld: Open) -> None:
    told(open_keld(), "bedrock")
    assert list(Bucket.at("s3://keld-emulator/bedrock").names()) == []


def test_a_ledger_that_cannot_be_written(open_keld: Open, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with open_keld(ledger_url=f"sqlite:///{tmp_path}/file/ledger.db") as keld:
        ledger = keld.doctor("openai")[0]
    assert (ledger.subject, ledger.state) == ("ledger", CheckState.PROBLEM)
    assert "none can be made" in ledger.finding


def test_staging_that_cannot_be_written(open_keld: Open, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "staging").write_text("not a directory")
    with open_keld(ledger_url=f"sqlite:///{tmp_path}/ledger.db") as keld:
        staging = keld.doctor("openai")[1]
    assert (staging.subject, staging.state) == ("staging", CheckState.PROBLEM)
    assert "cannot be written" in staging.finding


def test_staging_in_a_bucket_without_rights(open_keld: Open, emulator: Emulator) -> None:
    fault(emulator, "upload", "status", status=403, times=None, match={"provider": "s3"})
    with open_keld(staging="s3://keld-emulator/staging") as keld:
        staging = keld.doctor("openai")[1]
    assert (staging.subject, staging.state) == ("staging", CheckState.PROBLEM)
    assert staging.finding == "The bucket s3://keld-emulator/staging cannot be written to: the credentials do not allow this."


def test_an_account_that_does_not_exist(open_keld: Open) -> None:
    with open_keld() as keld, pytest.raises(InvalidJob, match="No account has the name 'nobody'"):
        keld.doctor("nobody")


# --- a kind of another package ----------------------------------------------------------------------------------------


@pytest.fixture
def _otherhost(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names no call for the doctor, so its list of batches is asked for."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "providers" / "otherhost")


@pytest.mark.usefixtures("_otherhost")
def test_a_kind_that_names_no_call_is_asked_for_its_batches(open_emulator: Callable[..., Emulator], open_keld: Open) -> None:
    emulator = open_emulator()
    account = Account(kind="otherhost")
    assert told(open_keld(clock=emulator.now, accounts={"other": account}), "other")["key"].state is CheckState.OK
    wrong = _with(account, api_key=lambda: "")
    assert told(open_keld(clock=emulator.now, accounts={"other": wrong}), "other")["key"].state is CheckState.PROBLEM
    fault(emulator, "list", "status", status=403, times=None)
    found = told(open_keld(clock=emulator.now, accounts={"other": account}), "other")["key"]
    assert found.state is CheckState.PROBLEM
    assert "HTTP 403" in found.finding
    check_unpaid(emulator)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_shows_each_finding_with_what_to_do_and_ends_with_an_error(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KELD_HOME", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY")
    shown = CliRunner().invoke(app, ["doctor", "openai"])
    assert shown.exit_code == 1
    assert (
        "problem  openai: No key for openai: the environment variable OPENAI_API_KEY is not set.\n         Give one and run again."
        in shown.output
    )


def test_the_command_gives_json_and_ends_well(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KELD_HOME", str(tmp_path))
    emulator.advance(0)
    shown = CliRunner().invoke(app, ["doctor", "mistral:mistral-small-latest", "--json"])
    found = json.loads(shown.stdout)
    assert {"subject": "mistral", "what": "models", "state": "ok", "finding": "mistral-small-latest is served.", "fix": ""} in found
    assert shown.exit_code == 0


def _with(account: Account, **fields: Any) -> Account:
    from dataclasses import replace

    return replace(account, **fields)
