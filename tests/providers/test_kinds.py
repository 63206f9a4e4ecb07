"""Kinds of providers: found by name, brought by other packages, with prices by kind; and job runs on those that are built for the proof."""

import re
import socket
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from keld import Account, AzureAccount, BedrockAccount, Embedding, Keld, VertexAccount
from keld.emulator import Emulator
from keld.errors import InvalidJob, PriceUnknown, ProviderUnreachable
from keld.patience import Patience
from keld.price import Lane
from keld.pricing import rates
from keld.providers.kinds import BUILT_IN, batch_page, kinds, preset_of
from keld.providers.provider import Provider, connect, rates_of
from tests.support.ticket_job import finish, openai, outcomes, purchases, tickets, triage
from tests.support.ticket_worker import OTHERHOST, worker
from tests.support.worker_process import KILLED

TESTS = Path(__file__).parent.parent
DAY = datetime(2026, 11, 20, tzinfo=UTC)
PRICES = {"input": 1, "output": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudAccount(Account):
    kind: str = "cloud"
    region: str


def install(folder: Path, kind: str, preset: str) -> None:
    """Makes `folder` one of `sys.path` in which a package with an entry point is installed."""
    info = folder / f"{kind}_host-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {kind}-host\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[keld.providers]\n{kind} = {preset}\n")


# --- kinds ------------------------------------------------------------------------------------------------------------


def test_a_kind_of_another_package_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kinds() == tuple(sorted(BUILT_IN))
    monkeypatch.syspath_prepend(OTHERHOST)
    assert kinds() == tuple(sorted((*BUILT_IN, "otherhost")))


def test_a_kind_of_another_package_has_the_pages_of_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch_page("https://api.otherhost.example", "j1") is None
    monkeypatch.syspath_prepend(OTHERHOST)
    assert batch_page("https://api.otherhost.example", "j1") == "https://otherhost.example/jobs/j1"
    assert batch_page("https://api.openai.com", "b1") == "https://platform.openai.com/batches/b1"


def test_a_broken_package_of_a_kind_hides_no_page_of_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(tmp_path, "aaa", "no_such_module:PRESET")
    monkeypatch.syspath_prepend(tmp_path)
    assert "aaa" in kinds()
    assert batch_page("https://api.openai.com", "b1") == "https://platform.openai.com/batches/b1"


def test_an_account_of_a_kind_with_a_class_of_its_own_is_of_that_class() -> None:
    """A kind that needs a region has it as a field that a type checker knows."""
    preset = replace(preset_of("openai", "eu"), kind="cloud", account=CloudAccount)
    assert Provider("eu", CloudAccount(region="eu-1"), preset, Patience()).host == "https://api.openai.com"
    with pytest.raises(InvalidJob, match="Account 'eu' has the type Account; kind cloud needs the type CloudAccount"):
        Provider("eu", Account(kind="cloud"), preset, Patience())


def test_an_unknown_kind_is_refused_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(OTHERHOST)
    with pytest.raises(InvalidJob, match=f"'eu' is of kind 'oddity'; the kinds are {', '.join(sorted((*BUILT_IN, 'otherhost')))}"):
        connect("eu", Account(kind="oddity"))


def test_a_host_without_an_official_address_needs_one() -> None:
    with pytest.raises(InvalidJob, match="needs base_url="):
        connect("mine", Account(kind="openai_compatible"))


# --- prices -----------------------------------------------------------------------------------------------------------


def test_a_price_is_looked_up_by_kind_whatever_the_account_is_called() -> None:
    found = connect("eu", Account(kind="openai")).rates("gpt-5-mini", Lane.BATCH, DAY)
    assert found is not None
    assert found == rates("openai", "gpt-5-mini", Lane.BATCH, DAY)


def test_an_account_of_another_name_is_planned_and_paid(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    keld = open_keld(clock=emulator.now, accounts={"eu": Account(kind="openai")})
    status = finish(keld, emulator, keld.submit(triage(openai, models="eu:gpt-5-mini"), tickets()).id)
    assert outcomes(keld, status) == ["answered"] * 6
    assert status.cost_usd > 0
    assert [quote.rates is not None for quote in keld.prices(["eu:gpt-5-mini"])] == [True] * 3


def test_a_name_that_is_a_price_list_of_its_own_is_that_list() -> None:
    """Many hosts have OpenAI's shape and prices of their own: `groq` is not billed as OpenAI is."""
    model = "openai/gpt-oss-120b"
    found = connect("groq", Account(kind="openai", base_url="https://api.groq.com/openai/v1")).rates(model, Lane.BATCH, DAY)
    assert found is not None
    assert found == rates("groq", model, Lane.BATCH, DAY)


def test_an_account_may_say_its_price_list() -> None:
    assert connect("eu", Account(kind="openai", prices="azure")).rates("gpt-5-mini", Lane.BATCH, DAY) == rates(
        "azure", "gpt-5-mini", Lane.BATCH, DAY
    )


def test_an_account_pays_the_rates_of_its_region_its_location_and_its_factor() -> None:
    """By the kind, whatever the account is called: an account `azure-eu` had no price at all."""

    def input_rate(account: Account, model: str, lane: Lane = Lane.BATCH) -> Decimal | None:
        found = rates_of("mine", account, model, lane, DAY)
        return found.base.input if found else None

    nova, haiku = "amazon.nova-lite-v1:0", "anthropic.claude-haiku-4-5-20251001-v1:0"
    assert input_rate(BedrockAccount(region="eu-west-1"), nova, Lane.STANDARD) == Decimal("0.078")
    assert input_rate(BedrockAccount(region="us-east-1"), nova, Lane.STANDARD) == Decimal("0.06")
    assert input_rate(BedrockAccount(region="us-east-1"), haiku) == Decimal("0.55"), "in a region as by its profile"
    assert input_rate(BedrockAccount(region="us-east-1"), f"global.{haiku}") == Decimal("0.5")
    assert input_rate(BedrockAccount(region="us-east-1"), f"arn:aws:bedrock:us-east-1::foundation-model/{haiku}") == Decimal("0.55")
    assert input_rate(AzureAccount(price_factor=Decimal("1.1")), "gpt-5.4-mini") == Decimal("0.4125")
    assert input_rate(VertexAccount(location="global"), "claude-haiku-5-5") == Decimal("0.05")
    assert input_rate(VertexAccount(location="europe-west1"), "claude-haiku-5-5") == Decimal("0.055")
    assert input_rate(Account(kind="gemini"), "gemini-embedding-001") == Decimal("0.075")


@pytest.mark.parametrize(
    ("account", "field", "given"),
    [
        (BedrockAccount, "region", "useast1"),
        (BedrockAccount, "bucket", "my-bucket"),
        (BedrockAccount, "bucket", "gs://my-bucket/keld"),
        (BedrockAccount, "role", "keld-batches"),
        (VertexAccount, "bucket", "s3://my-bucket/keld"),
        (VertexAccount, "bucket", 'gs://my-bucket/keld"'),
        (BedrockAccount, "bucket", "s3://my bucket/keld"),
        (BedrockAccount, "role", "arn:aws:iam::123456789012:role/keld "),
        (VertexAccount, "project", "my-project "),
        (VertexAccount, "location", 'us-central1"'),
    ],
)
def test_a_slip_in_a_field_of_a_cloud_is_refused_before_anything_is_sent(account: type[Account], field: str, given: str) -> None:
    """Sent, it would come back as a refused create, and the rows would be rejected for good."""
    with pytest.raises(InvalidJob, match=f"The {field} of an account of kind .* is '{given}'. Nothing was sent. Write it like '"):
        account(**{field: given})


def test_a_slip_in_a_variable_of_a_cloud_is_refused_as_the_account_connects(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KELD_BEDROCK_BUCKET", "my-bucket")
    with pytest.raises(InvalidJob, match="The bucket of an account of kind bedrock is 'my-bucket'"):
        connect("bedrock", BedrockAccount())


@pytest.mark.parametrize(
    ("account", "said"),
    [
        (
            BedrockAccount(region="us-esat-1"),
            "check region= of the account, or AWS_REGION: no region 'us-esat-1' is known (did you mean ",
        ),
        (BedrockAccount(region="us-east-1"), ""),
        (
            VertexAccount(location="europe-wets4"),
            "check location= of the account, or GOOGLE_CLOUD_LOCATION: no location 'europe-wets4' is known (did you mean europe-west4 or ",
        ),
        (AzureAccount(base_url="https://my-resorce.openai.azure.com"), "check base_url= of the account or AZURE_OPENAI_ENDPOINT"),
    ],
    ids=["region", "a known region", "location", "resource"],
)
def test_a_host_that_nobody_knows_is_told_with_the_setting_that_names_it(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, account: Account, said: str
) -> None:
    """Each region and each resource has a host of its own, so a slip in its name is first seen as a name that DNS does not know."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for variable in ("AWS_ENDPOINT_URL_BEDROCK", "GOOGLE_VERTEX_BASE_URL"):
        monkeypatch.delenv(variable)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("keld.http._PAUSES_S", (0, 0))
    with pytest.raises(ProviderUnreachable) as caught:
        connect(account.kind, account).newest()
    told = str(caught.value)
    assert "its name is not known (DNS)" in told
    assert (f"; {said}" in told) if said else "check" not in told
    assert "us-east-1" in told or not said.startswith("check region")
    found = [check for check in connect(account.kind, account).examine(None, emulator.now) if check.what == "address"]
    assert [said.lower() in check.fix.lower() for check in found] == [True]


def test_a_project_is_named_by_its_id_or_by_its_number() -> None:
    """Google's own client takes GOOGLE_CLOUD_PROJECT for a number, and asks with it if it finds no id (github.com/googleapis/python-aiplatform/issues/5392)."""
    number = VertexAccount(project="123456789012", location="us-central1", bucket="gs://b")
    assert connect("vertex", number).host.endswith("/projects/123456789012/locations/us-central1")


def test_a_plan_tells_that_two_lists_differ(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    job = triage(openai, models="azure:text-embedding-3-small", output_type=Embedding(dimensions=256), system=None)
    plan = open_keld(clock=emulator.now).plan(job, tickets())
    told = plan.notes["azure:text-embedding-3-small"]
    assert "priced by two lists that differ, and the higher rates are used" in told
    assert "input 0.022" in told
    assert "input 0.02" in told
    assert plan.chosen is not None


def test_a_jobs_own_prices_go_by_the_accounts_name() -> None:
    found = connect("eu", Account(kind="openai")).rates("mine", Lane.BATCH, DAY, {"eu:mine": PRICES})
    assert found is not None
    assert found.base.input == 1


# --- a host without batches -------------------------------------------------------------------------------------------


@pytest.fixture
def mine(open_keld: Callable[..., Keld], emulator: Emulator) -> Keld:
    """An environment with an account of its own server."""
    return open_keld(
        clock=emulator.now, accounts={"mine": Account(kind="openai_compatible", base_url=emulator.url_of("openai_compatible"))}
    )


def job_of(account: str, **terms: Any) -> Any:
    return triage(openai, models=f"{account}:gpt-5-mini", prices={f"{account}:gpt-5-mini": PRICES}, **terms)


def test_a_plan_on_a_host_without_batches_takes_the_fast_lane_and_says_why(mine: Keld) -> None:
    plan = mine.plan(job_of("mine"), tickets())
    assert plan.chosen is not None
    assert plan.chosen.lane is Lane.STANDARD
    assert [option.obstacle for option in plan.options if option.lane is Lane.BATCH] == ["mine has no batches, only the fast lanes"]


def test_a_batch_on_a_host_without_batches_is_refused_in_words(mine: Keld) -> None:
    with pytest.raises(PriceUnknown, match="mine has no batches, only the fast lanes") as refused:
        mine.plan(job_of("mine", lane="batch"), tickets())
    assert "prices=" not in str(refused.value), "the job gives the price already"


def test_rows_on_a_host_without_batches_are_answered_and_paid_once(mine: Keld, emulator: Emulator) -> None:
    """No key is needed, and nothing is asked of a batch API that is not there."""
    status = finish(mine, emulator, mine.submit(job_of("mine"), tickets()).id)
    assert outcomes(mine, status) == ["answered"] * 6
    assert len(emulator.bill()) == 6
    assert {call.path for call in emulator.requests()} == {"/openai_compatible/v1/chat/completions"}
    assert mine.reconcile(["mine"]) == []


@pytest.mark.share(3)
@pytest.mark.parametrize("point", ["realtime.send", "realtime.received", "realtime.journal"])
def test_a_worker_on_a_host_without_batches_is_killed_and_another_continues(emulator: Emulator, tmp_path: Path, point: str) -> None:
    """Only what was in flight at the kill may be paid twice, and it is counted."""
    url = emulator.url_of("openai_compatible")
    died = worker(tmp_path, emulator, "openai_compatible", "gpt-5-mini", url, point)
    assert died.exitcode == KILLED
    ended = worker(tmp_path, emulator, "openai_compatible", "gpt-5-mini", url)
    state, answered, in_doubt = ended.said
    assert (state, answered) == ("finished", "6")
    assert 6 <= len(emulator.bill()) <= 6 + int(in_doubt)


# --- a kind of another package ----------------------------------------------------------------------------------------


@pytest.mark.share(2)
@pytest.mark.parametrize("point", ["create.send", "create.received", "download.chunk", "collect.done"])
def test_a_worker_on_a_kind_of_another_package_is_killed_and_another_goes_on(
    open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, point: str
) -> None:
    """Lists by token, results in several objects, errors of its own: the promise is the same."""
    monkeypatch.syspath_prepend(OTHERHOST)
    emulator = open_emulator()
    died = worker(tmp_path, emulator, "otherhost", "gpt-5-mini", point=point)
    assert died.exitcode == KILLED
    ended = worker(tmp_path, emulator, "otherhost", "gpt-5-mini")
    assert ended.said == ["finished", "6", "0"]
    assert set(purchases(emulator).values()) == {1}
    assert len(purchases(emulator)) == 6


def test_an_error_in_a_shape_of_its_own_is_not_in_doubt(
    open_keld: Callable[..., Keld], open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `error_in` each refused request of a fast lane would look like a proxy's page, and keep its worst case reserved."""
    monkeypatch.syspath_prepend(OTHERHOST)
    emulator = open_emulator()
    for name, value in emulator.env().items():
        monkeypatch.setenv(name, value)
    emulator.faults({"rules": [{"at": "realtime", "do": "status", "status": 400, "match": {"provider": "otherhost"}}]})
    keld = open_keld(clock=emulator.now, accounts={"other": Account(kind="otherhost")})
    status = finish(keld, emulator, keld.submit(job_of("other", lane="standard"), tickets()).id)
    assert sorted(map(str, outcomes(keld, status))) == ["answered"] * 5 + ["errored"]
    assert len(emulator.bill()) == 5


# --- the page that says how -------------------------------------------------------------------------------------------


def test_the_steps_of_the_page_make_a_kind(
    open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """docs/add-a-provider.md, followed to the letter: its package, its entry point, an account of it, a job."""
    page = (TESTS.parent / "docs/add-a-provider.md").read_text()
    code, project = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)[0] for kind in ("python", "toml"))
    group, found = next(iter(tomllib.loads(project)["project"]["entry-points"].items()))
    (tmp_path / "my_keld_host.py").write_text(code)
    assert group == "keld.providers"
    for kind, preset in found.items():
        install(tmp_path, kind, preset)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MY_HOST_KEY", emulator.api_key)
    assert "my_host" in kinds()
    keld = open_keld(clock=emulator.now, accounts={"theirs": Account(kind="my_host", base_url=emulator.url_of("openai_compatible"))})
    status = finish(keld, emulator, keld.submit(job_of("theirs"), tickets()).id)
    assert outcomes(keld, status) == ["answered"] * 6


def test_a_key_instead_of_a_function_is_refused_and_not_shown() -> None:
    """Otherwise the first call fails with "'str' object is not callable"."""
    with pytest.raises(InvalidJob, match="api_key_env=") as refused:
        Account(kind="openai", api_key="sk-secret")  # type: ignore[arg-type]  # what users write
    assert "sk-secret" not in str(refused.value)


def test_an_account_that_is_a_dict_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match=r"accounts\['own'\] is a dict, not a keld.Account") as refused:
        Keld(home=tmp_path, accounts={"own": {"kind": "openai", "api_key": "sk-secret"}})  # type: ignore[dict-item]  # what users write
    assert "sk-secret" not in str(refused.value)
