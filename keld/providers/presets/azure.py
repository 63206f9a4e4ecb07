"""Azure: one resource of Azure OpenAI (Microsoft Foundry), by its v1 API.

OpenAI's wire with three differences that cost money if they are missed: a model is called by the name of its deployment, and a deployment for batches
answers nothing else; a batch never expires, so only the job's own deadline ends it; a full queue refuses the create with 400.
learn.microsoft.com/azure/foundry/openai/how-to/batch and .../reference, read in Nov 2026.
"""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import urlsplit

from keld.errors import InvalidJob
from keld.price import Lane
from keld.providers.account import Account, AzureAccount
from keld.providers.base import Fit, Traits
from keld.providers.dialects.openai_embeddings import OpenAIEmbeddings
from keld.providers.envelope import LINES
from keld.providers.fault import Meaning
from keld.providers.part import Auth, Batches, Connection, Dialect, Preset, Probe
from keld.providers.presets.common import EMBEDDING_PACK, LINE_BYTES, NOT_DONE
from keld.providers.presets.openai import CHAT, RESPONSES, dialect_of, quotas_of
from keld.request import Question
from keld.shard import Limits

# A resource keeps 500 input files without an expiry, and 10,000 with one, of 14 to 30 days (.../how-to/batch, "Batch limits", Nov 2026).
_INPUT_KEPT_S = 14 * 86_400


class AzureEmbeddings(OpenAIEmbeddings):
    """Embeddings, which Azure does not answer in batches (.../how-to/batch, "Feature support", Nov 2026)."""

    def fit(self, question: Question, model: str) -> Fit:
        return Fit(not_in={**super().fit(question, model).not_in, Lane.BATCH: "Azure has no batches of embeddings, only the standard lane"})


EMBEDDINGS = AzureEmbeddings()


def _dialect(question: Question, model: str) -> Dialect:
    return EMBEDDINGS if question.output["kind"] == "embedding" else dialect_of(question, model)


def _base_url(account: Account) -> str:
    """The URL of the v1 API, of an endpoint as the portal shows it or with the path of either API."""
    if account.base_url is None:
        raise InvalidJob(
            "An account of kind azure needs base_url=, the endpoint of its resource (or AZURE_OPENAI_ENDPOINT). Nothing was sent. "
            "Give e.g. AzureAccount(base_url='https://my-resource.openai.azure.com')."
        )
    parts = urlsplit(account.base_url)
    # A gateway may have a path before `/openai`; what comes behind it is a deployment or a version, and a project has the calls of its resource.
    before = re.split(r"/openai(?:/|$)|/api/projects/", parts.path, maxsplit=1)[0].rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{before}/openai/v1"


def _batches(connection: Connection) -> Batches:
    from keld.providers.transports.openai_files import OpenAIFiles

    return OpenAIFiles(connection, _auth, input_kept_s=_INPUT_KEPT_S)


def _auth(connection: Connection) -> Auth:
    from keld.providers.transports import azure_auth

    return azure_auth.auth(connection)


def _for_account(account: Account) -> Preset:
    assert isinstance(account, AzureAccount), "checked when the account connects"
    batch, fast = account.deployments, account.fast_deployments
    return replace(PRESET, deployment=lambda model, lane: (batch if lane is Lane.BATCH else fast).get(model, model))


PRESET = Preset(
    kind="azure",
    base_url=_base_url,
    base_url_env="AZURE_OPENAI_ENDPOINT",
    api_key_env="AZURE_OPENAI_API_KEY",
    key_optional=True,
    base_holds="/v1",
    dialect=_dialect,
    dialects=(CHAT, RESPONSES, EMBEDDINGS),
    envelope=LINES,
    batches=_batches,
    auth=_auth,
    quotas=quotas_of,
    # Ten regions refuse a create at once when the deployment's queue is full (.../how-to/batch, "Queueing batch jobs", Nov 2026).  A deployment
    # that is not there, or of another type, is the same for all rows, and a person must create it.
    codes={
        (400, "token_limit_exceeded"): Meaning.QUEUE_FULL,
        (404, "DeploymentNotFound"): Meaning.ACCESS,
        (400, "OperationNotSupported"): Meaning.ACCESS,
        **NOT_DONE,
    },
    prices="azure",
    probe=Probe(path="/models"),  # it lists models of the region, not the deployments that can be asked
    account=AzureAccount,
    for_account=_for_account,
    # 100,000 requests and 200 MB a file; `completion_window` must be 24h, but jobs are not expired: "continue until completed or cancelled".
    traits=Traits(
        limits=Limits(max_requests=100_000, max_bytes=200_000_000, max_line_bytes=LINE_BYTES),
        lanes=frozenset(Lane),
        list_page=100,
        fences=True,
        window=None,
        pack=EMBEDDING_PACK,
    ),
)
