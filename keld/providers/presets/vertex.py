"""Vertex: Vertex AI in one project and one location, with batch prediction jobs; Gemini, and Claude by Anthropic's API."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from keld.objects import Credentials
from keld.price import Lane
from keld.pricing import Listed
from keld.providers.account import Account, VertexAccount, place_of
from keld.providers.base import Traits
from keld.providers.dialects.vertex_models import VertexGenerate, VertexMessages, is_claude
from keld.providers.fault import Meaning
from keld.providers.part import Auth, Batches, Connection, Dialect, Preset, Probe
from keld.providers.presets.common import LINE_BYTES
from keld.providers.transports.vertex_lines import VertexEnvelope
from keld.request import Question
from keld.shard import Limits

_GENERATE, _MESSAGES = VertexGenerate(), VertexMessages()
_GLOBAL = "global"


def _dialect_of(question: Question, model: str) -> Dialect:
    return _MESSAGES if is_claude(model) else _GENERATE


def _batches(connection: Connection) -> Batches:
    from keld.providers.transports.vertex import VertexBatches

    return VertexBatches(connection)


def _auth(connection: Connection) -> Auth:
    from keld.providers.transports import vertex_auth

    return vertex_auth.auth(connection)


def _bucket_credentials(connection: Connection) -> Credentials:
    from keld.providers.transports import vertex_auth

    return vertex_auth.bucket_credentials(connection)


def _error_in(body: dict[str, object], headers: object) -> object:
    from keld.providers.transports import vertex_auth

    return vertex_auth.error_in(body, headers)


def _base_url(account: Account) -> str:
    assert isinstance(account, VertexAccount)
    at = "" if account.location == _GLOBAL else f"{account.location}-"
    return account.base_url or f"https://{at}aiplatform.googleapis.com"


def _url(connection: Connection, path: str) -> str:
    return f"{connection.base_url.rstrip('/')}/v1{_scope(connection.account)}{path}"


def _scope(account: Account) -> str:
    """Project and location: all projects share the hosts."""
    assert isinstance(account, VertexAccount)
    return f"/projects/{account.project}/locations/{account.location}"


# docs.cloud.google.com/vertex-ai/generative-ai/docs/learn/locations; only for the name that was meant, so that a location that is missing here does no harm.
_LOCATIONS = (
    _GLOBAL, "us-central1", "us-east1", "us-east4", "us-east5", "us-south1", "us-west1", "us-west4", "northamerica-northeast1", "southamerica-east1",
    "europe-central2", "europe-north1", "europe-southwest1", "europe-west1", "europe-west2", "europe-west3", "europe-west4", "europe-west6",
    "europe-west8", "europe-west9", "asia-east1", "asia-east2", "asia-northeast1", "asia-northeast3", "asia-south1", "asia-southeast1",
    "australia-southeast1", "me-central1", "me-central2", "me-west1",
)  # fmt: skip


def _listed(account: Account, model: str) -> Listed:
    """A model, or the last part of its resource name; anywhere but at the global endpoint some models cost more."""
    location = account.location if isinstance(account, VertexAccount) else ""
    return Listed(names=(model.rpartition("/")[2],), regional=location != _GLOBAL)


def _for_account(account: Account) -> Preset:
    """Flex PayGo is sold at the global address only: docs.cloud.google.com/vertex-ai/generative-ai/docs/flex-paygo, read 29 Nov 2026."""
    assert isinstance(account, VertexAccount)
    lanes = frozenset(Lane) if account.location == _GLOBAL else frozenset({Lane.BATCH, Lane.STANDARD})
    return replace(PRESET, traits=replace(PRESET.traits, lanes=lanes))


PRESET = Preset(
    kind="vertex",
    account=VertexAccount,
    base_url=_base_url,
    base_url_env="GOOGLE_VERTEX_BASE_URL",
    variables={"project": "GOOGLE_CLOUD_PROJECT", "location": "GOOGLE_CLOUD_LOCATION", "bucket": "KELD_VERTEX_BUCKET"},
    url=_url,
    scope=_scope,
    place=lambda account: place_of(account, "location", "GOOGLE_CLOUD_LOCATION", _LOCATIONS),
    for_account=_for_account,
    dialect=_dialect_of,
    dialects=(_GENERATE, _MESSAGES),
    envelope=VertexEnvelope(),
    batches=_batches,
    auth=_auth,
    error_in=_error_in,
    codes={
        # Billing or region: a bad request for every row.
        (400, "FAILED_PRECONDITION"): Meaning.ACCESS,
        (429, "RESOURCE_EXHAUSTED"): Meaning.QUEUE_FULL,
        (None, "overloaded_error"): Meaning.NOT_DONE,
        (None, "capacity_exceeded"): Meaning.NOT_DONE,
    },
    prices="vertex",
    probe=Probe(path=lambda account: f"/v1{_scope(account)}/batchPredictionJobs?pageSize=1"),  # the models of a project are listed nowhere
    bucket=lambda account: account.bucket if isinstance(account, VertexAccount) else "",
    bucket_credentials=_bucket_credentials,
    listed=_listed,
    # docs.cloud.google.com/vertex-ai/generative-ai/docs/multimodal/batch-prediction-gemini, Nov 2026: 200,000 requests and 1 GB a job; it is queued
    # for 72 hours at most, and ends 24 hours after it began; "if the batch prediction job is terminated, all completed rows are exported".  The
    # messages of a conversation grow when they become contents, which the size of a line does not tell: so 700 MB.
    # That a removed input fences: a job reads it after its create was answered, so it fails then, and nothing is paid.
    traits=Traits(
        limits=Limits(max_requests=200_000, max_bytes=700_000_000, max_line_bytes=LINE_BYTES),
        lanes=frozenset(Lane),
        list_page=100,
        marks_batches=True,
        fences=True,
        newest_first=False,
        pages_by_id=False,
        window=timedelta(hours=96),
        finds=True,
    ),
)
