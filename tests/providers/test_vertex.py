"""Kind vertex, what is its own: two families of models, rows known by a label or by their request, projects apart, tokens, whole job runs."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from keld import Account, Keld, VertexAccount
from keld.emulator import Emulator
from keld.errors import AccessRefused, InvalidJob, ProviderUnreachable
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.base import Created
from keld.providers.fault import Fault
from keld.providers.part import Connection
from keld.providers.provider import connect
from keld.providers.transports.vertex_auth import auth
from keld.request import Question
from keld.schema import Embedding, output_schema
from tests.providers.conftest import Wire
from tests.support.ticket_job import (
    Label,
    Peer,
    creates,
    finish,
    outcomes,
    purchases,
    run,
    tickets,
    triage,
    vertex,
    vertex_claude,
)
from tests.support.ticket_worker import worker
from tests.support.worker_process import KILLED

PRICES = {"input": 1, "output": 2}


@pytest.fixture(params=[vertex, vertex_claude], ids=lambda peer: peer.model)
def peer(request: pytest.FixtureRequest) -> Peer:
    """Once for each family of models."""
    return request.param


def job(*models: str, **terms: Any) -> Any:
    return triage(vertex, models=list(models), prices=dict.fromkeys(models, PRICES), **terms)


def fault(emulator: Emulator, at: str, do: str, **more: Any) -> None:
    emulator.faults({"rules": [{"at": at, "do": do, "match": {"provider": "vertex"}, **more}]})


def paths(emulator: Emulator, method: str) -> list[str]:
    return [call.path for call in emulator.requests() if call.method == method and "/batchPredictionJobs" in call.path]


# --- job runs ---------------------------------------------------------------------------------------------------------


def test_a_job_run_is_answered_and_paid_once(open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer) -> None:
    """Answers from three objects, in the order of the table."""
    keld = open_keld(clock=emulator.now)
    status = run(keld, emulator, job(peer.models, lane="batch"), tickets(7))
    assert outcomes(keld, status) == ["answered"] * 7
    assert set(purchases(emulator).values()) == {1}
    assert status.reserved_usd == 0


def test_a_create_without_a_reply_is_found_by_its_label(open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer) -> None:
    fault(emulator, "create", "drop_after")
    keld = open_keld(clock=emulator.now)
    status = run(keld, emulator, job(peer.models, lane="batch"))
    assert outcomes(keld, status) == ["answered"] * 6
    assert len(creates(emulator, vertex)) == 1
    assert set(purchases(emulator).values()) == {1}


def test_rows_that_a_cancelled_job_did_not_reach_are_not_paid(open_keld: Callable[..., Keld], open_emulator: Any) -> None:
    """No line names them; by the service's counts nothing more can come, so no money stays reserved for them."""
    emulator = open_emulator(latency_s=600)
    keld = open_keld(clock=emulator.now)
    status = keld.submit(job(vertex.models, lane="batch"), tickets(10))
    keld.advance(status.id)
    emulator.advance(300)
    keld.cancel(status.id)
    status = finish(keld, emulator, status.id)
    assert sorted(set(outcomes(keld, status))) == ["answered", "cancelled"]
    assert outcomes(keld, status).count("answered") == len(emulator.bill()) > 0
    assert status.reserved_usd == 0


def test_the_fast_lanes_ask_by_the_models_own_method(open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer) -> None:
    keld = open_keld(clock=emulator.now)
    status = run(keld, emulator, job(peer.models, lane="standard"), tickets(3))
    assert outcomes(keld, status) == ["answered"] * 3
    method = "generateContent" if peer is vertex else "rawPredict"
    assert {call.path.rpartition(":")[2] for call in emulator.requests()} == {method}


def test_flex_is_asked_for_in_a_header_and_sold_at_the_global_address_only(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    keld = open_keld(clock=emulator.now, accounts={"europe": VertexAccount(location="europe-west4")})
    status = run(keld, emulator, job(vertex.models, lane="flex"), tickets(3))
    assert outcomes(keld, status) == ["answered"] * 3
    assert [entry.lane for entry in emulator.bill()] == ["flex"] * 3
    assert Lane.FLEX not in keld.provider("europe").traits.lanes


# --- rows -------------------------------------------------------------------------------------------------------------


def relabelled(emulator: Emulator, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrites every result line in the bucket."""
    store = emulator._live.store.objects
    for one in store.listed("gs", "keld-emulator", "vertex/out/"):
        rows = [json.loads(line) for line in one.read().splitlines()]
        for row in rows:
            change(row)
        store.write("gs", "keld-emulator", one.name, b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def test_a_row_whose_label_is_missing_is_known_again_by_its_request(open_wire: Callable[[Peer], Wire]) -> None:
    """Whatever the order of the request's fields in the output."""
    wire = open_wire(vertex)
    batch = wire.ended(5)
    expected = {reply.custom_id: reply.content for reply in wire.replies(batch)}

    def strip(row: dict[str, Any]) -> None:
        del row["request"]["labels"]
        row["request"] = dict(reversed(row["request"].items()))

    relabelled(wire.emulator, strip)
    for path in wire.folder.glob("result-*"):
        path.unlink()
    assert {reply.custom_id: reply.content for reply in wire.replies(batch)} == expected
    assert len(expected) == 5


def test_an_output_in_several_objects_is_listed_and_each_of_them_read_as_it_was_listed(open_wire: Callable[[Peer], Wire]) -> None:
    """The list says already how large each is: asking for each of a thousand once more would take a minute.  Two requests read the first line of one."""
    wire = open_wire(vertex)
    batch = wire.ended(5)
    before = len(wire.emulator.requests())
    assert len(found := wire.provider._batches.results(batch)) > 1
    assert len(wire.emulator.requests()) - before == len(batch.result_refs) + 2 * len(found)
    assert all(file.size_bytes for file in found)


def test_a_row_that_fits_no_request_is_left_out(open_wire: Callable[[Peer], Wire]) -> None:
    """It is another job's, or was changed on its way: its answer belongs to nobody here."""
    wire = open_wire(vertex)
    batch = wire.ended(3)
    relabelled(wire.emulator, lambda row: row.update(request={"contents": []}))
    assert wire.replies(batch) == []


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        ('Bad Request: {"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}', False),
        ('{"error": {"code": 429, "message": "later", "status": "RESOURCE_EXHAUSTED"}}', True),
        ('{"code": 8, "message": "later"}', True),
        ("Internal error {", False),
    ],
)
def test_a_row_that_failed_says_why(open_wire: Callable[[Peer], Wire], status: str, retryable: bool) -> None:
    line = {"status": status, "request": {"labels": {"keld": "aaaaaaaaaa-00000000"}}, "response": {}}
    (reply,) = open_wire(vertex).read(json.dumps(line).encode())
    assert (reply.outcome, reply.retryable) == (Outcome.ERRORED, retryable)


def test_labels_are_kelds_own(open_wire: Callable[[Peer], Wire]) -> None:
    question = Question(system=None, output=output_schema(Label).to_json(), params={"labels": {"team": "x"}})
    with pytest.raises(InvalidJob, match="params names labels, which Keld sets itself"):
        open_wire(vertex).provider.check(question, vertex.model, "labels")


def test_embeddings_are_not_asked_here_and_the_plan_says_where(open_wire: Callable[[Peer], Wire]) -> None:
    question = Question(system=None, output=output_schema(Embedding(dimensions=8)).to_json())
    assert "gemini:gemini-embedding-001" in (open_wire(vertex).provider.fit(question, "gemini-embedding-001").obstacle or "")


# --- projects and locations -------------------------------------------------------------------------------------------


def test_two_projects_are_two_hosts_and_their_jobs_are_never_mixed(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """They share an address; a job that is lost in one is not looked for in the other, nor adopted from it."""
    accounts = {"one": VertexAccount(project="one"), "two": VertexAccount(project="two")}
    keld = open_keld(clock=emulator.now, accounts=accounts)
    hosts = {keld.provider(name).host for name in accounts}
    assert {host.partition("/projects/")[2] for host in hosts} == {"one/locations/global", "two/locations/global"}
    fault(emulator, "create", "drop_after", times=2)
    started = [keld.submit(job(f"{name}:{vertex.model}", lane="batch", name=name), tickets()) for name in accounts]
    ended = [finish(keld, emulator, status.id) for status in started]
    for status, name in zip(ended, accounts, strict=True):
        assert outcomes(keld, status) == ["answered"] * 6
        assert f"projects/{name}/" in str(status.batches[0].batch_id)
    assert len(emulator.bill()) == 12
    assert keld.reconcile(["one"]) == keld.reconcile(["two"]) == []


def test_an_account_of_the_wrong_class_and_a_missing_field_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_CLOUD_PROJECT", "KELD_VERTEX_BUCKET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidJob, match="needs the type VertexAccount"):
        connect("v", Account(kind="vertex"))
    with pytest.raises(InvalidJob, match=r"project= \(or GOOGLE_CLOUD_PROJECT\), bucket= \(or KELD_VERTEX_BUCKET\)"):
        connect("v", VertexAccount(location="global"))


@pytest.mark.parametrize(
    ("location", "host"),
    [("global", "https://aiplatform.googleapis.com"), ("us-central1", "https://us-central1-aiplatform.googleapis.com")],
)
def test_the_address_is_that_of_the_location(monkeypatch: pytest.MonkeyPatch, location: str, host: str) -> None:
    monkeypatch.delenv("GOOGLE_VERTEX_BASE_URL", raising=False)
    made = connect("v", VertexAccount(project="p", location=location, bucket="gs://b/keld"))
    assert made.host == f"{host}/projects/p/locations/{location}"


# --- tokens -----------------------------------------------------------------------------------------------------------


class TokenServer:
    """A server of tokens, as Google has one: each token counts up."""

    def __init__(self) -> None:
        self.given, self.status = 0, 200
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.given += 1
                said = {"access_token": f"t{outer.given}", "token_type": "Bearer", "expires_in": 3600}
                body = json.dumps(said if outer.status == 200 else {"error": "invalid_grant"}).encode()
                self.send_response(outer.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def credentials(self, folder: Path) -> Path:
        """The key file of a service account whose tokens are given here."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        given = {
            "type": "service_account",
            "project_id": "p",
            "client_email": "keld@p.iam.gserviceaccount.com",
            "private_key": key.private_bytes(*form).decode(),
            "token_uri": f"http://127.0.0.1:{self.server.server_port}/token",
        }
        (folder / "credentials.json").write_text(json.dumps(given))
        return folder / "credentials.json"


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenServer]:
    made = TokenServer()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(made.credentials(tmp_path)))
    monkeypatch.delenv("GOOGLE_OAUTH_ACCESS_TOKEN", raising=False)
    yield made
    made.server.shutdown()


def connection(key: Callable[[], str] = lambda: "") -> Connection:
    from keld.patience import Patience

    account = VertexAccount(project="p", location="global", bucket="gs://b/k")
    return Connection(account=account, base_url="http://127.0.0.1:1", key=key, patience=Patience())


def header(made: Any) -> str:
    from keld.providers.part import Outgoing

    return str(made.headers(Outgoing(method="GET", url="http://x", headers={}))["authorization"])


def test_a_token_comes_from_the_credentials_that_google_auth_finds_and_is_kept(tokens: TokenServer) -> None:
    made = auth(connection())
    assert made.due()
    made.renew()
    assert (header(made), made.due(), tokens.given) == ("Bearer t1", False, 1)


def test_credentials_that_are_refused_need_a_person(tokens: TokenServer) -> None:
    tokens.status = 400
    with pytest.raises(AccessRefused, match="refused the credentials"):
        auth(connection()).renew()


def test_a_token_that_does_not_come_is_a_fault_of_its_server(tokens: TokenServer) -> None:
    """Nothing of the call itself was sent."""
    tokens.server.shutdown()
    tokens.server.server_close()
    with pytest.raises((Fault, AccessRefused)):
        auth(connection()).renew()


def test_a_token_of_the_accounts_own_is_asked_for_again(tokens: TokenServer) -> None:
    made = auth(connection(lambda: "mine"))
    made.renew()
    assert (header(made), tokens.given) == ("Bearer mine", 0)


def test_the_bucket_is_asked_with_the_same_token(open_emulator: Any, tmp_path: Path) -> None:
    """An access token is enough: no key file is needed for Cloud Storage."""
    wire = Wire(vertex, open_emulator(api_keys=["only-this"]), tmp_path)
    with pytest.raises((AccessRefused, ProviderUnreachable)):
        wire.connect(api_key=lambda: "another").upload(wire.file(["one"]), "a" * 10)
    wire.provider = wire.connect(api_key=lambda: "only-this")
    assert len(wire.replies(wire.ended(3))) == 3


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("point", "model"),
    [
        ("create.received", vertex.model),
        ("create.received", vertex_claude.model),
        ("download.chunk", vertex.model),
        ("collect.done", vertex_claude.model),
    ],
)
def test_a_worker_is_killed_and_another_goes_on(emulator: Emulator, tmp_path: Path, point: str, model: str) -> None:
    died = worker(tmp_path, emulator, "vertex", model, point=point)
    assert died.exitcode == KILLED
    ended = worker(tmp_path, emulator, "vertex", model)
    assert ended.said[:2] == ["finished", "6"]
    assert set(purchases(emulator).values()) == {1}
    assert len(purchases(emulator)) == 6


def test_an_upload_names_an_object_of_its_own_each_time(open_wire: Callable[[Peer], Wire]) -> None:
    """A create that comes late must not find the input of a later one."""
    wire = open_wire(vertex)
    path = wire.file(["one"])
    first, second = (wire.provider.upload(path, "a" * 10) for _ in range(2))
    assert first != second


def test_a_removed_input_stops_a_late_create(open_emulator: Any, tmp_path: Path) -> None:
    """The fence: the job that it makes fails, and nothing is paid."""
    wire = Wire(vertex, open_emulator(latency_s=100, validate_s=60), tmp_path)
    made = wire.provider.create(asked := wire.submission())
    assert isinstance(made, Created)
    wire.provider.delete_input(asked.input_ref or "")
    wire.emulator.advance(timedelta(minutes=10))
    assert wire.look(made.batch).state.value == "failed"
    assert wire.emulator.bill() == []
    wire.provider.close()
