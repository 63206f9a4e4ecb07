"""Telemetry: what a collector receives over the wire of a job run, by the official exporter, and that nothing is sent unasked."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from keld import Keld
from keld.emulator import Emulator
from tests.engine.test_orphan import sweep
from tests.support.ticket_job import Peer, fault, finish, openai, run, tickets, triage


class Collector:
    """What was exported to it; every message is kept as it came, too."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}  # the latest of each name: sums are since the start
        self.raw = b""

    def take(self, path: str, body: bytes) -> None:
        self.raw += body
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        else:
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.metrics |= {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}

    def values(self, name: str, by: str) -> dict[str, float]:
        """The sums of a counter, or the values of a gauge, by one attribute."""
        metric, found = self.metrics[name], dict[str, float]()
        for point in [*metric.sum.data_points, *metric.gauge.data_points]:
            key = attributes(point)[by]
            found[key] = found.get(key, 0) + point.as_double + point.as_int
        return found


def attributes(of: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in of.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield collector
        server.shutdown()


@pytest.fixture
def keld(open_keld: Callable[..., Keld], collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Keld:
    monkeypatch.setenv("KELD_TELEMETRY", "1")
    return open_keld()


def test_the_spans_of_a_job_run_have_its_own_times_though_they_are_made_at_its_end(
    keld: Keld, emulator: Emulator, peer: Peer, collector: Collector
) -> None:
    status = run(keld, emulator, triage(peer), tickets(), partition="2026-11-19")
    by_name = {span.name: span for span in collector.spans}
    assert len(collector.spans) == 3
    whole, shard, batch = by_name["keld.job_run"], by_name["keld.shard"], by_name["keld.batch"]
    assert (shard.parent_span_id, batch.parent_span_id, whole.parent_span_id) == (whole.span_id, shard.span_id, b"")
    assert whole.start_time_unix_nano == round(status.created_at.timestamp() * 1e6) * 1_000
    assert status.finished_at is not None
    assert whole.end_time_unix_nano == round(status.finished_at.timestamp() * 1e6) * 1_000
    assert (batch.end_time_unix_nano - batch.start_time_unix_nano) / 1e9 == pytest.approx(status.turnaround_s, abs=1e-3)
    assert attributes(batch)["keld.batch_id"] == status.batches[0].batch_id
    assert (attributes(batch)["gen_ai.provider.name"], attributes(batch)["gen_ai.request.model"]) == (peer.name, peer.model)
    assert attributes(whole)["keld.job_run"] == status.id


def test_the_counters_say_what_the_status_says(keld: Keld, emulator: Emulator, peer: Peer, collector: Collector) -> None:
    fault(emulator, "rows", "refusal", count=1)
    status = run(keld, emulator, triage(peer, deadline=timedelta(hours=30)), tickets(10))
    assert collector.values("keld.rows", "outcome") == status.outcomes
    assert collector.values("keld.tokens", "gen_ai.token.type") == {"input": status.input_tokens, "output": status.output_tokens}
    for name, usd in (("keld.cost", status.cost_usd), ("keld.standard_cost", status.standard_usd)):
        assert collector.metrics[name].unit == "{USD}"
        (paid,) = collector.values(name, "gen_ai.request.model").values()
        assert Decimal(paid) == pytest.approx(usd)
    (spare,) = collector.metrics["keld.deadline.spare"].histogram.data_points
    assert status.deadline_at is not None
    assert status.finished_at is not None
    assert spare.sum == pytest.approx((status.deadline_at - status.finished_at).total_seconds())
    assert 86_400 in spare.explicit_bounds
    assert "keld.deadline.late" not in collector.metrics


def test_batches_in_flight_are_counted_by_the_ledger(keld: Keld, emulator: Emulator, peer: Peer, collector: Collector) -> None:
    keld.advance((waits := keld.submit(triage(peer), tickets(), partition="waits")).id)
    fault(emulator, "life", "stuck")
    keld.advance((stays := keld.submit(triage(peer), tickets(), partition="stays")).id)
    emulator.advance(70)
    assert keld.advance(waits.id).over
    assert collector.values("keld.batches.open", "gen_ai.request.model") == {peer.model: 1}
    keld.cancel(stays.id)
    finish(keld, emulator, stays.id)


def test_no_metric_has_a_partition_or_an_id_and_nothing_has_a_prompt_or_a_key(
    keld: Keld, emulator: Emulator, peer: Peer, collector: Collector
) -> None:
    """Each value would be a time series of its own; and the collector is others'."""
    run(keld, emulator, triage(peer), tickets(), partition="2026-11-19")
    allowed = {"keld.job", "keld.lane", "outcome", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.token.type"}
    for metric in collector.metrics.values():
        points = [*metric.sum.data_points, *metric.gauge.data_points, *metric.histogram.data_points]
        assert {key for point in points for key in attributes(point)} <= allowed, metric.name
    assert b"CANARY" not in collector.raw
    assert b"sk-" not in collector.raw


def test_what_was_paid_twice_is_counted_when_its_bill_is_known(keld: Keld, emulator: Emulator, collector: Collector) -> None:
    fault(emulator, "create", "twice")
    fault(emulator, "life", "stuck", done=0.5, match={"batch": 2})
    sweep(keld, emulator, finish(keld, emulator, keld.submit(triage(openai), tickets()).id))
    (twice,) = collector.values("keld.paid_twice", "keld.job").values()
    assert Decimal(twice) == pytest.approx(keld.spend().total.twice_usd)


def test_a_job_run_is_recorded_once_whoever_looks_at_it(
    keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator, collector: Collector
) -> None:
    status = run(keld, emulator, triage(openai), tickets())
    keld.advance(status.id)
    open_keld().poll()
    assert [span.name for span in collector.spans].count("keld.job_run") == 1


def test_nothing_is_sent_and_nothing_imported_unless_it_was_asked_for(
    open_keld: Callable[..., Keld], emulator: Emulator, collector: Collector
) -> None:
    """Also where the endpoint is set, for the other programs of the machine."""
    run(open_keld(), emulator, triage(openai), tickets())
    assert (collector.spans, collector.metrics) == ([], {})
    code = "import sys; from keld import Keld; Keld(); print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_closed_environment_leaves_no_thread_that_sends(
    open_keld: Callable[..., Keld], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A triggerer opens and closes environments for months."""
    before = set(threading.enumerate())
    monkeypatch.setenv("KELD_TELEMETRY", "1")
    open_keld().close()
    assert [thread.name for thread in set(threading.enumerate()) - before if "Otel" in thread.name] == []


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no", "off "])
def test_telemetry_that_is_set_to_off_records_and_sends_nothing(
    open_keld: Callable[..., Keld], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """A chart's `KELD_TELEMETRY: "false"` turned it on."""
    monkeypatch.setenv("KELD_TELEMETRY", value)
    assert open_keld()._telemetry is None


def test_a_collector_that_is_gone_stops_no_job_run(
    open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KELD_TELEMETRY", "1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert run(open_keld(), emulator, triage(openai), tickets()).answered == 6
