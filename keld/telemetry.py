"""Telemetry: what a job run was, as OpenTelemetry spans and metrics, recorded when it is over.

Beside the road, above `notice`, which passes each job run to `Telemetry` once, whatever crashes when; so a span that lasts hours is made at its end,
with its own times, and none is lost with a worker.  The one file that imports OpenTelemetry, and only if telemetry was asked for.
There is no convention for batches yet; the names are Keld's, the attributes those of GenAI where there are any
(https://opentelemetry.io/docs/specs/semconv/gen-ai/, development, read 2026-11-30).  No partition, id or prompt is an attribute of a metric.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, StatusCode

from keld.ledger import Shard
from keld.notice import Notice, NoticeKind
from keld.status import Status

_FLUSH_MS = 5_000
# The SDK's own bounds end at three hours less than a batch's day.
_SECONDS = (60, 300, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400)
_NAMES = {"gemini": "gcp.gemini", "vertex": "gcp.vertex_ai", "bedrock": "aws.bedrock", "azure": "azure.ai.openai", "mistral": "mistral_ai"}


class Telemetry:
    """Records the notices of job runs, by the providers of spans and metrics of this process; if it has none, by OTLP as `OTEL_*` says.

    Args:
        kind_of: the kind of an account, by its name.
        shards_of: the shards of a job run, by its id.
        at_providers: how many batches are at a provider, by account and model; asked whenever metrics are sent.
    """

    def __init__(
        self,
        kind_of: Callable[[str], str],
        shards_of: Callable[[str], Sequence[Shard]],
        at_providers: Callable[[], Mapping[tuple[str, str], int]],
    ) -> None:
        self._kind_of, self._shards_of, self._at_providers = kind_of, shards_of, at_providers
        self._traces, self._metrics = _providers()
        self._tracer = self._traces.get_tracer("keld")
        meter = self._metrics.get_meter("keld")
        self._rows = meter.create_counter("keld.rows", "{row}", "rows of job runs that are over, by outcome")
        self._tokens = meter.create_counter("keld.tokens", "{token}", "tokens that were billed")
        self._cost = meter.create_counter("keld.cost", "{USD}", "what was paid")
        self._standard = meter.create_counter("keld.standard_cost", "{USD}", "what the same tokens cost in the standard lane")
        self._twice = meter.create_counter(
            "keld.paid_twice", "{USD}", "what was paid for answers that are not used; part of no other counter"
        )
        bounds: dict[str, Any] = {"explicit_bucket_boundaries_advisory": _SECONDS}
        self._turnaround = meter.create_histogram("keld.batch.turnaround", "s", "from the create of a batch to its end", **bounds)
        # Two, since a histogram takes no value below 0.
        self._spare = meter.create_histogram("keld.deadline.spare", "s", "how long before its deadline a job run was over", **bounds)
        self._late = meter.create_histogram("keld.deadline.late", "s", "how long after its deadline a job run was over", **bounds)
        meter.create_observable_gauge("keld.batches.open", [self._open], "{batch}", "batches at a provider now, by the whole ledger")

    def __call__(self, notice: Notice) -> None:
        """Records a job run that is over, or what was paid twice; and sends it, since the process may end soon."""
        match notice.kind:
            case NoticeKind.FINISHED:
                shards = self._shards_of(notice.status.id)
                self._count(notice.status, shards)
                self._trace(notice.status, shards)
            case NoticeKind.PAID_TWICE:
                self._twice.add(float(notice.paid_twice_usd), {"keld.job": notice.status.job})
            case _:
                return
        for provider in (self._traces, self._metrics):
            if flush := getattr(provider, "force_flush", None):
                flush(_FLUSH_MS)

    # -- metrics ----------------------------------------------------------------------------------------------

    def _count(self, status: Status, shards: Sequence[Shard]) -> None:
        of_job = {"keld.job": status.job}
        for outcome, rows in status.outcomes.items():
            self._rows.add(rows, of_job | {"outcome": outcome})
        for shard in shards:
            attributes = self._attributes(status, shard)
            self._cost.add(float(shard.cost_usd or 0), attributes)
            self._standard.add(float(shard.standard_usd or 0), attributes)
            self._tokens.add(shard.input_tokens, attributes | {"gen_ai.token.type": "input"})
            self._tokens.add(shard.output_tokens, attributes | {"gen_ai.token.type": "output"})
            if shard.submitted_at is not None and shard.ended_at is not None:
                self._turnaround.record((shard.ended_at - shard.submitted_at).total_seconds(), attributes)
        if status.deadline_at is not None and status.finished_at is not None:
            margin_s = (status.deadline_at - status.finished_at).total_seconds()
            (self._spare if margin_s >= 0 else self._late).record(abs(margin_s), of_job)

    def _open(self, _: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        for (account, model), batches in self._at_providers().items():
            yield metrics.Observation(batches, self._model(account, model) | {"keld.lane": "batch"})

    def _attributes(self, status: Status, shard: Shard) -> dict[str, str]:
        return self._model(shard.provider, shard.model) | {"keld.lane": shard.lane, "keld.job": status.job}

    def _model(self, account: str, model: str) -> dict[str, str]:
        kind = self._kind_of(account)
        return {"gen_ai.provider.name": _NAMES.get(kind, kind), "gen_ai.request.model": model}

    # -- spans ------------------------------------------------------------------------------------------------

    def _trace(self, status: Status, shards: Sequence[Shard]) -> None:
        ended = status.finished_at or status.as_of
        rows = {f"keld.rows.{outcome}": count for outcome, count in status.outcomes.items()}
        facts = {"keld.job": status.job, "keld.partition": status.partition, "keld.job_run": status.id, "keld.state": status.state.value}
        whole = self._span("keld.job_run", status.created_at, None, facts | rows)
        for shard in shards:
            self._trace_shard(whole, shard, self._attributes(status, shard), ended)
        if status.late:
            whole.set_status(StatusCode.ERROR, "its deadline was missed")
        whole.end(_ns(ended))

    def _trace_shard(self, whole: Span, shard: Shard, attributes: Mapping[str, Any], job_run_ended: datetime) -> None:
        begun, ended = shard.intent_at or job_run_ended, shard.collected_at or shard.ended_at or job_run_ended
        facts = {"keld.shard": shard.id, "keld.round": shard.round, "keld.requests": shard.requests, "keld.state": shard.state.value}
        span = self._span("keld.shard", begun, whole, {**attributes, **facts})
        if shard.batch_id is not None and shard.submitted_at is not None:
            usage = {"gen_ai.usage.input_tokens": shard.input_tokens, "gen_ai.usage.output_tokens": shard.output_tokens}
            batch = self._span("keld.batch", shard.submitted_at, span, {**attributes, **usage, "keld.batch_id": shard.batch_id})
            batch.end(_ns(shard.ended_at or ended))
        span.end(_ns(ended))

    def _span(self, name: str, start: datetime, parent: Span | None, attributes: Mapping[str, Any]) -> Span:
        # Of no context of the caller's: what polls has nothing to do with what was submitted hours ago.
        context = trace.set_span_in_context(parent or trace.INVALID_SPAN)
        return self._tracer.start_span(name, context, attributes=dict(attributes), start_time=_ns(start))


def _ns(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000) * 1_000


def _providers() -> tuple[trace.TracerProvider, metrics.MeterProvider]:
    """Those of this process, if it has set some up, as Airflow and `opentelemetry-instrument` do; else our own."""
    traces, counts = trace.get_tracer_provider(), metrics.get_meter_provider()
    if not isinstance(traces, trace.ProxyTracerProvider):
        return traces, counts
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "keld"})
    ours = TracerProvider(resource=resource)
    ours.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return ours, MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource)
