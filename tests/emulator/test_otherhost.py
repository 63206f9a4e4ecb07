"""A service of another package, found by its entry point: its own wire, and the same faults, clock and bill as all others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keld.emulator import Emulator, Service

PACKAGE = Path(__file__).parent.parent / "providers/otherhost"


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Batches take 100 s on a frozen clock; the package is where Python looks for packages."""
    monkeypatch.syspath_prepend(PACKAGE)
    with Emulator(frozen=True, latency_s=100) as emulator:
        yield emulator


@pytest.fixture
def client(emulator: Emulator) -> Iterator[httpx2.Client]:
    env = emulator.env()
    with httpx2.Client(base_url=env["OTHERHOST_BASE_URL"], headers={"x-otherhost-key": env["OTHERHOST_API_KEY"]}) as client:
        yield client


def job(client: httpx2.Client, rows: int = 7, **more: Any) -> Any:
    body = {"model": "gpt-oss-120b", "messages": [{"role": "user", "content": "Where is my invoice?"}]}
    lines = [json.dumps({"label": f"r-{n}", "request": {**body, "user": str(n)}}) for n in range(rows)]
    staged = client.post("/objects", content="\n".join(lines).encode()).json()
    create = {"object": staged["object"], "endpoint": "/v1/chat/completions", "model": "gpt-oss-120b", "labels": {"keld": "a-1"}}
    return client.post("/jobs", json=create | more).json()


def results(client: httpx2.Client, shown: Any) -> list[Any]:
    return [json.loads(line) for output in shown["outputs"] for line in client.get(output["url"]).text.splitlines()]


def test_job_goes_its_way_and_its_results_are_several_objects(emulator: Emulator, client: httpx2.Client) -> None:
    made = job(client)
    assert (made["state"], made["labels"], made["outputs"]) == ("CHECKING", {"keld": "a-1"}, None)
    emulator.advance(100)
    ended = client.get(f"/jobs/{made['job']}").json()
    assert (ended["state"], ended["counts"]) == ("DONE", {"total": 7, "succeeded": 7, "failed": 0})
    assert len(ended["outputs"]) == 3
    lines = results(client, ended)
    assert sorted(line["label"] for line in lines) == [f"r-{n}" for n in range(7)]
    assert {line["answer"]["object"] for line in lines} == {"chat.completion"}
    assert {(paid.provider, paid.lane, paid.batch_id) for paid in emulator.bill()} == {("otherhost", "batch", made["job"])}
    assert emulator.batches()[0]["state"] == "DONE"


def test_a_result_object_is_fetched_from_where_one_was(emulator: Emulator, client: httpx2.Client) -> None:
    made = job(client)
    emulator.advance(100)
    url = client.get(f"/jobs/{made['job']}").json()["outputs"][0]["url"]
    whole = client.get(url)
    rest = client.get(url, headers={"range": "bytes=10-", "if-range": whole.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, whole.content[10:])


def test_list_goes_on_by_token(client: httpx2.Client) -> None:
    made = [job(client, 1)["job"] for _ in range(5)]
    found: list[str] = []
    token: str | None = ""
    while token is not None:
        shown = client.get("/jobs", params={"page_size": 2} | ({"page_token": token} if token else {})).json()
        found += [one["job"] for one in shown["jobs"]]
        token = shown.get("next_page_token")
    assert found == made[::-1]


def test_stopped_job_hands_out_what_was_answered_and_names_the_rest(emulator: Emulator, client: httpx2.Client) -> None:
    made = job(client, 10)
    emulator.advance(50)
    client.post(f"/jobs/{made['job']}/stop")
    emulator.advance(100)
    ended = client.get(f"/jobs/{made['job']}").json()
    lines = results(client, ended)
    answered = [line for line in lines if line["status"] == 200]
    assert ended["state"] == "STOPPED"
    assert len(lines) == 10 and 5 <= len(answered) == len(emulator.bill()) < 10
    assert {line["fault"]["code"] for line in lines if line["status"] != 200} == {"STOPPED"}
    again = client.post(f"/jobs/{made['job']}/stop")
    assert (again.status_code, again.json()["fault"]["code"]) == (409, "ALREADY_OVER")


@pytest.mark.parametrize(
    ("rule", "status", "code"),
    [
        ({"at": "create", "do": "status", "status": 429}, 429, "SLOW_DOWN"),
        ({"at": "create", "do": "status", "status": 503}, 503, "BROKEN"),
        ({"at": "create", "do": "late_landing", "status": 500}, 500, "BROKEN"),
    ],
)
def test_errors_have_a_shape_of_their_own(
    emulator: Emulator, client: httpx2.Client, rule: dict[str, Any], status: int, code: str
) -> None:  # fmt: skip
    emulator.faults({"rules": [rule | {"match": {"provider": "otherhost"}}]})
    assert job(client)["fault"]["code"] == code
    assert emulator.requests()[-1].status == status


def test_input_that_is_removed_fences_a_create_that_lands_late(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults({"rules": [{"at": "create", "do": "late_landing", "status": 500, "after_s": 60}]})
    staged = client.post("/objects", content=b'{"label":"r-0","request":{"model":"m","messages":[]}}').json()["object"]
    client.post("/jobs", json={"object": staged, "endpoint": "/v1/chat/completions", "model": "m"})
    assert client.delete(f"/objects/{staged}").json() == {"object": staged, "removed": True}
    emulator.advance(60)
    assert client.get("/jobs").json() == {"jobs": []}


def test_damaged_lines_and_refused_rows_are_this_wire_s(emulator: Emulator, client: httpx2.Client) -> None:
    emulator.faults({"rules": [{"at": "lines", "do": "foreign", "count": 1}, {"at": "rows", "do": "error", "status": 400, "count": 1}]})
    made = job(client, 3)
    emulator.advance(100)
    lines = results(client, client.get(f"/jobs/{made['job']}").json())
    assert sorted(line["label"] for line in lines) == ["keld-emulator-foreign-0", "r-0", "r-1", "r-2"]
    assert [line["fault"]["code"] for line in lines if line.get("status") == 400] == ["BAD_REQUEST"]
    assert len(emulator.bill()) == 2


def test_request_at_once_is_billed(emulator: Emulator, client: httpx2.Client) -> None:
    answer = client.post("/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "hello"}]})
    assert answer.json()["object"] == "chat.completion"
    assert [(paid.provider, paid.lane) for paid in emulator.bill()] == [("otherhost", "standard")]


def test_unknown_path_and_missing_key_are_refused_in_its_shape(client: httpx2.Client) -> None:
    assert client.get("/nothing").json()["fault"]["code"] == "UNKNOWN"
    assert client.get("/jobs", headers={"x-otherhost-key": ""}).json()["fault"]["code"] == "NO_KEY"


def test_without_its_package_there_is_no_such_service() -> None:
    with Emulator(frozen=True) as emulator, pytest.raises(KeyError):
        emulator.url_of("otherhost")


def test_a_service_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PACKAGE)
    from keld_otherhost.emulator import OtherHost  # type: ignore[import-not-found]  # of the package that is found in tests only

    class Renamed(OtherHost):  # type: ignore[misc]
        kind, base, owns = "renamed", "/renamed/v1", "/renamed"

    assert issubclass(Renamed, Service)
    with Emulator(frozen=True, services={"renamed": Renamed}) as emulator:
        assert httpx2.get(emulator.url_of("renamed") + "/jobs", headers={"x-otherhost-key": "a"}).json() == {"jobs": []}
