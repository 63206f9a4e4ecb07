"""Azure: deployments in place of models, a key or a token of Entra, a queue that is full at the create, and batches that nothing but we end."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest

from keld import AzureAccount, Keld
from keld.emulator import Emulator
from keld.errors import AccessRefused, InvalidJob
from keld.price import Lane
from keld.providers.base import BatchState, Created, Denied, QueueFull, SendOutcome, Settled
from keld.providers.provider import Provider, connect
from keld.request import Question, custom_id, one_line
from keld.schema import Embedding, output_schema
from keld.state import State
from tests.providers.conftest import Wire
from tests.support.slow_server import SILENT, slow_server
from tests.support.ticket_job import Label, azure, finish, outcomes, purchases, tickets, triage

BATCH, FAST = {"gpt-5-mini": "mini-batch"}, {"gpt-5-mini": "mini-standard"}
PRICES = {"azure:gpt-5-mini": {"input": 1, "output": 2}}
HOUR = timedelta(hours=1)
QUESTION = Question(system="Be brief.", output=output_schema(Label).to_json(), max_output_tokens=64)
PROMPT = one_line("ticket 1")


@pytest.fixture
def wire(open_wire: Callable[[Any], Wire]) -> Wire:
    return open_wire(azure)


@pytest.fixture
def keld(open_keld: Callable[..., Keld], emulator: Emulator) -> Keld:
    """An environment whose account has deployments of both types."""
    return open_keld(clock=emulator.now, accounts={"azure": AzureAccount(deployments=BATCH, fast_deployments=FAST)})


def send(provider: Provider, body: bytes) -> SendOutcome:
    async def once() -> SendOutcome:
        async with provider.sender("/v1/chat/completions", lambda: 30, 1) as sender:
            return await sender(custom_id("a" * 10, 1), body)

    return asyncio.run(once())


# --- deployments --------------------------------------------------------------------------------------------------------


def test_each_lane_names_its_deployment_and_prices_go_by_the_model(wire: Wire) -> None:
    provider = wire.connect(deployments=BATCH, fast_deployments=FAST)
    encoder = provider.encoder(QUESTION, "gpt-5-mini", "a" * 10)
    assert json.loads(encoder.line(1, PROMPT))["body"]["model"] == "mini-batch"
    assert json.loads(encoder.body(PROMPT, Lane.FLEX))["model"] == "mini-standard"
    assert encoder.overhead_bytes >= len(encoder.line(1, b'""')) - 2
    newer = provider.encoder(QUESTION, "gpt-6.1-sol", "a" * 10)
    assert "prompt_cache_options" in json.loads(newer.body(PROMPT, Lane.STANDARD)), "cache rules go by the model, too"


def test_an_account_without_deployments_names_the_model(wire: Wire) -> None:
    encoder = wire.provider.encoder(QUESTION, "gpt-5-mini", "a" * 10)
    assert json.loads(encoder.line(1, PROMPT))["body"] == json.loads(encoder.body(PROMPT, Lane.STANDARD))
    assert json.loads(encoder.line(1, PROMPT))["body"]["model"] == "gpt-5-mini"


@pytest.mark.parametrize("lane", ["batch", "flex", "standard"])
def test_a_job_runs_on_deployments_in_every_lane(keld: Keld, emulator: Emulator, lane: str) -> None:
    """The emulator refuses a deployment for batches in place of one for single requests, and the other way round."""
    status = finish(keld, emulator, keld.submit(triage(azure, prices=PRICES, lane=lane), tickets()).id)
    assert outcomes(keld, status) == ["answered"] * 6
    assert {(paid.lane, paid.model) for paid in emulator.bill()} == {(lane, "gpt-5-mini")}
    assert len(emulator.bill()) == 6
    assert {one.partition("-20")[0] for one in keld.read(status.id).read_all().column("keld_model").to_pylist()} == {"gpt-5-mini"}


@pytest.mark.parametrize(("name", "code"), [("mini-batch", "OperationNotSupported"), ("does-not-exist", "DeploymentNotFound")])
def test_a_deployment_that_cannot_answer_stops_the_lane_and_fails_no_row(wire: Wire, name: str, code: str) -> None:
    """All rows would be refused; a person must create a deployment."""
    provider = wire.connect(fast_deployments={"gpt-5-mini": name})
    outcome = send(provider, provider.encoder(QUESTION, "gpt-5-mini", "a" * 10).body(PROMPT, Lane.STANDARD))
    assert isinstance(outcome, Denied)
    assert outcome.code == code


def test_embeddings_are_planned_in_the_fast_lanes_only(keld: Keld) -> None:
    embedding = {"azure:text-embedding-3-small": {"input": 1, "output": 0}}
    job = triage(azure, models="azure:text-embedding-3-small", output_type=Embedding(dimensions=8), system=None, prices=embedding)
    options = keld.plan(job, tickets()).options
    assert {option.lane: option.obstacle for option in options}[Lane.BATCH] == "Azure has no batches of embeddings, only the standard lane"
    assert any(option.lane is Lane.STANDARD and option.obstacle is None for option in options)


# --- batches ------------------------------------------------------------------------------------------------------------


def test_a_full_queue_is_no_fault_of_the_file(open_emulator: Callable[..., Emulator], tmp_path: Path) -> None:
    """Refused with 400, it would else be taken for a file that is never accepted, and all its rows would fail."""
    wire = Wire(azure, open_emulator(enqueued_token_limit=600), tmp_path)
    first = wire.create(3)
    second = wire.submission(3, "b" * 10)
    assert isinstance(wire.provider.create(second), QueueFull)
    wire.emulator.advance(61)
    assert wire.look(first).state is BatchState.COMPLETED
    assert isinstance(wire.provider.create(second), Created)


def test_a_batch_is_ended_by_the_deadline_of_its_job_alone(keld: Keld, emulator: Emulator) -> None:
    """Azure expires nothing: without a cancel the rows would stay reserved for ever, and be paid whenever they are answered."""
    emulator.faults({"rules": [{"at": "life", "do": "stuck", "done": 0.5}]})
    status = keld.submit(triage(azure, prices=PRICES, lane="batch", deadline=72 * HOUR), tickets())
    keld.advance(status.id)
    emulator.advance(95 * HOUR)
    assert keld.advance(status.id).batches[0].state is State.IN_PROGRESS, "a day after the deadline it may still end by itself"
    for _ in range(20):
        emulator.advance(HOUR)
        status = keld.advance(status.id)
        if status.over:
            break
    assert status.over
    assert status.reserved_usd == 0
    assert {batch["status"] for batch in emulator.batches()} == {"cancelled", "completed"}
    assert (status.answered, max(purchases(emulator).values())) == (6, 1)


def test_inputs_expire_so_that_more_of_them_are_kept(wire: Wire) -> None:
    wire.provider.upload(wire.file(["one"]), "a" * 10)
    client = openai.OpenAI(base_url=wire.emulator.url_of("azure"), api_key=wire.emulator.api_key)
    (file,) = client.files.list(purpose="batch").data
    assert (file.expires_at or 0) - file.created_at == 14 * 86_400


# --- addresses and keys ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/", "/openai", "/openai/v1", "/openai/v1/"])
def test_an_endpoint_is_taken_in_every_form_the_portal_shows(path: str) -> None:
    provider = connect("azure", AzureAccount(base_url=f"https://my-resource.openai.azure.com{path}"))
    assert provider._connection.base_url == "https://my-resource.openai.azure.com/openai/v1"
    assert provider.host == "https://my-resource.openai.azure.com"


def test_an_account_without_an_endpoint_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    with pytest.raises(InvalidJob, match=r"AZURE_OPENAI_ENDPOINT.*Nothing was sent.*AzureAccount"):
        connect("azure", AzureAccount())


def heads_of(account: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The headers of a look and of a request of a fast lane, as they reach the host."""
    seen: list[dict[str, str]] = []

    def answer(method: str, path: str, head: bytes, body: bytes) -> bytes:
        lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
        seen.append({name.lower(): value for name, _, value in lines})
        return b'{"id":"batch_1","status":"in_progress","created_at":1,"choices":[]}'

    with slow_server(SILENT, answer) as server:
        provider = connect("azure", AzureAccount(base_url=server.url, **account))
        provider.get("batch_1")
        send(provider, b'{"model":"gpt-5-mini","messages":[]}')
        provider.close()
    look, request = seen
    return {"look": look, "request": request}


def test_the_key_goes_in_azures_own_header() -> None:
    for head in heads_of({"api_key": lambda: "the-key"}).values():
        assert head["api-key"] == "the-key"
        assert "authorization" not in head


@pytest.fixture
def identity(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with a managed identity and without a key."""
    monkeypatch.delenv("AZURE_OPENAI_API_KEY")
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{emulator.url}/azure/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "any")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")  # else it also starts the command lines of this machine
    yield


def test_without_a_key_a_token_of_entra_is_asked_for_and_kept(wire: Wire, identity: None) -> None:
    """In batches and in fast lanes; the emulator refuses any token but its own."""
    provider = wire.connect()
    provider.ready()
    assert provider.newest() is None
    assert provider.newest() is None
    outcome = send(provider, provider.encoder(QUESTION, "gpt-5-mini", "a" * 10).body(PROMPT, Lane.STANDARD))
    assert isinstance(outcome, Settled)
    assert outcome.answered
    asked = [call.path for call in wire.emulator.requests() if call.path.endswith("/token")]
    assert len(asked) == 2, "one for the batches, one for the fast lanes"


def test_a_machine_without_key_and_identity_is_told_what_to_do(wire: Wire, identity: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(AccessRefused, match=r"AZURE_OPENAI_API_KEY is not set.*pip install 'keld\[azure\]'"):
        wire.connect().ready()


def test_an_identity_that_is_refused_is_told_without_what_entra_said(wire: Wire, identity: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own text lists tenants and clients, and what each of ten credentials tried."""
    wire.emulator.faults({"rules": [{"at": "any", "do": "status", "status": 400, "times": None, "message": "tenant CANARY-TENANT"}]})
    with pytest.raises(AccessRefused, match=r"Entra gave no token for Azure.*No call was made") as refused:
        wire.connect().newest()
    assert "CANARY" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_fast_lane_without_a_token_says_so_and_asks_nothing(keld: Keld, emulator: Emulator, identity: None) -> None:
    """Not "azure refused a request": it was never asked."""
    emulator.faults({"rules": [{"at": "any", "do": "status", "status": 400, "times": None}]})
    status = keld.submit(triage(azure, prices=PRICES, lane="standard"), tickets())
    assert (keld.advance(status.id).problem or "").startswith("Entra gave no token for Azure")
    assert not [call for call in emulator.requests() if call.path.endswith("/chat/completions")]


def test_the_output_of_the_schema_follows_the_model_behind(wire: Wire) -> None:
    """`gpt-4` has no JSON Schema output, whatever its deployment is called."""
    provider = wire.connect(deployments={"gpt-4": "gpt-5-mini"})
    assert provider.fit(QUESTION, "gpt-4").obstacle is not None
