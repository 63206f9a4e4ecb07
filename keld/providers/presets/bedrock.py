"""Bedrock: Amazon Bedrock in one region, with batch inference jobs, Converse, and InvokeModel for Claude."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from keld.price import Lane
from keld.pricing import Listed
from keld.providers.account import Account, BedrockAccount, place_of
from keld.providers.base import Traits
from keld.providers.dialects.bedrock_messages import BedrockMessages, is_invoked
from keld.providers.dialects.converse import Converse
from keld.providers.fault import Meaning
from keld.providers.part import Auth, Batches, Connection, Dialect, Preset, Probe
from keld.providers.presets.common import LINE_BYTES
from keld.providers.transports.bedrock_lines import BedrockEnvelope
from keld.providers.word import CLOCK_SKEW, ROLE_REFUSED
from keld.request import Question
from keld.shard import Limits

_CONVERSE, _MESSAGES = Converse(), BedrockMessages()
_CONTROL = re.compile(r"\bbedrock(-fips)?\.")


def _dialect_of(question: Question, model: str) -> Dialect:
    return _MESSAGES if is_invoked(model) else _CONVERSE


def _batches(connection: Connection) -> Batches:
    from keld.providers.transports.bedrock import BedrockBatches

    return BedrockBatches(connection)


def _auth(connection: Connection) -> Auth:
    from keld.providers.transports import bedrock_auth

    return bedrock_auth.auth(connection)


def _bucket_options(connection: Connection) -> Mapping[str, str]:
    from keld.providers.transports import bedrock_auth

    return bedrock_auth.bucket_options_of(connection)()


def _place(account: Account) -> str:
    from keld.providers.transports import bedrock_auth

    return place_of(account, "region", "AWS_REGION", bedrock_auth.regions())


def _error_in(body: dict[str, object], headers: object) -> object:
    from keld.providers.transports import bedrock_auth

    return bedrock_auth.error_in(body, headers)  # type: ignore[arg-type]


def _base_url(account: Account) -> str:
    assert isinstance(account, BedrockAccount)
    china = ".cn" if account.region.startswith("cn-") else ""
    return account.base_url or f"https://bedrock.{account.region}.amazonaws.com{china}"


def _url(connection: Connection, path: str) -> str:
    """Where a request of a fast lane goes: the service `bedrock-runtime`, which has an address of its own."""
    own = os.environ.get("AWS_ENDPOINT_URL_BEDROCK_RUNTIME") if connection.account.base_url is None else None
    if own:
        return own.rstrip("/") + path
    parts = urlsplit(connection.base_url)
    host = _CONTROL.sub(r"bedrock-runtime\1.", parts.netloc, count=1) if "amazonaws.com" in parts.netloc else parts.netloc
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/") + path, "", ""))


def _scope(account: Account) -> str:
    """Region and AWS account: an endpoint of one's own may serve several regions, and a region serves all accounts."""
    assert isinstance(account, BedrockAccount)
    return f"/{account.region}/{account.role.split(':')[4] if account.role.count(':') >= 5 else ''}".rstrip("/")


# The prefix of the inference profiles for callers in a region, as the names in prices.toml have it; the more special one first.  A region that
# the list does not name costs what its profile does, which is never less than the plain name says (tests/prices/test_prices.py).
_PROFILES = (
    ("us-gov-", "us-gov"), ("us-", "us"), ("eu-", "eu"), ("ap-northeast-1", "jp"), ("ap-northeast-3", "jp"), ("ap-southeast-2", "au"),
    ("ap-southeast-4", "au"), ("ap-", "apac"),
)  # fmt: skip


def _listed(account: Account, model: str) -> Listed:
    """A model, or the last part of its ARN: in the account's region, else by the profile of that region, else by its plain name."""
    region = account.region if isinstance(account, BedrockAccount) else ""
    name = model.rpartition("/")[2]
    profiles = [f"{profile}.{name}" for begin, profile in _PROFILES if region.startswith(begin)]
    return Listed(names=(f"{region}/{name}", *profiles, name))


def _names(body: Mapping[str, Any]) -> list[str]:
    return [str(one.get("modelId")) for one in body.get("modelSummaries") or () if isinstance(one, dict)]


def _serves(names: Collection[str], model: str) -> bool:
    """A model, or an inference profile of it (`us.anthropic...`); an ARN is not in the list, and may be served."""
    return model.startswith("arn:") or model in names or model.partition(".")[2] in names


PRESET = Preset(
    kind="bedrock",
    account=BedrockAccount,
    base_url=_base_url,
    base_url_env="AWS_ENDPOINT_URL_BEDROCK",
    variables={"region": "AWS_REGION", "bucket": "KELD_BEDROCK_BUCKET", "role": "KELD_BEDROCK_ROLE"},
    url=_url,
    scope=_scope,
    place=_place,
    dialect=_dialect_of,
    dialects=(_CONVERSE, _MESSAGES),
    envelope=BedrockEnvelope(),
    batches=_batches,
    auth=_auth,
    error_in=_error_in,
    # botocore 1.43's service models: a full queue has status 400, and so has a token that is in use; a model that failed, or took too long,
    # may have been paid.
    codes={
        (400, "ServiceQuotaExceededException"): Meaning.QUEUE_FULL,
        (400, "ConflictException"): Meaning.UNKNOWN,
        (424, "ModelErrorException"): Meaning.UNKNOWN,
        (408, "ModelTimeoutException"): Meaning.UNKNOWN,
        (429, "ModelNotReadyException"): Meaning.QUEUE_FULL,
        (None, "ThrottlingException"): Meaning.QUEUE_FULL,
        (None, "ExpiredTokenException"): Meaning.ACCESS,
        (None, "UnrecognizedClientException"): Meaning.ACCESS,
        (None, "IncompleteSignatureException"): Meaning.ACCESS,
        (None, CLOCK_SKEW): Meaning.ACCESS,
        (None, ROLE_REFUSED): Meaning.ACCESS,
    },
    prices="bedrock",
    probe=Probe(path="/foundation-models", names=_names, serves=_serves),
    bucket=lambda account: account.bucket if isinstance(account, BedrockAccount) else "",
    bucket_options=_bucket_options,
    listed=_listed,
    # docs.aws.amazon.com/general/latest/gr/bedrock.html, "Batch inference", 29 Nov 2026: 100 to 100,000 records a job, 1 GB a file.  The form of a
    # conversation in Converse has up to a third more bytes than its fragment, which the size of a line does not tell: so 700 MB.
    # That a removed input fences: a job reads it after its create was answered, so it fails then, and nothing is paid.
    # How long a token is remembered is documented nowhere.
    traits=Traits(
        limits=Limits(max_requests=100_000, max_bytes=700_000_000, max_line_bytes=LINE_BYTES),
        lanes=frozenset(Lane),
        list_page=1_000,
        marks_batches=True,
        fences=True,
        newest_first=True,
        pages_by_id=False,
        window=timedelta(hours=24),
        replays=timedelta(minutes=10),
        finds=True,
        least_requests=100,
        plain_ids=True,
    ),
)
