"""Account: the address of a provider and where its key is found; never the key itself.

Below `provider`.  `Account(kind=...)` is enough for every kind that needs only an address and a key.  A kind that needs more (a region,
a project, a bucket, a role) has a frozen subclass with these fields, so that a type checker knows them.  "" stands for "from the environment":
`Preset.variables` names the variable, and `completed` reads it when the account connects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any, Literal
from urllib.parse import urlsplit

from keld.errors import AccessRefused, InvalidJob
from keld.providers.kinds import BUILT_IN


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The address of a provider and where its key is found; never the key itself.

    Args:
        kind: which API the host has; `keld.kinds()` lists the kinds.
        base_url: None: the kind's environment variable (such as `OPENAI_BASE_URL`), else the official host.
        api_key_env: the environment variable that holds the key; None: the kind's own (such as `OPENAI_API_KEY`).
        api_key: a function that returns the key, if it is in a vault or in an orchestrator's connection; "" if there is none.
        keyless: a reason why no key may be found, shown in the error; for keys that do not come from an environment variable.
        credentials: a function that returns the credentials of the cloud's own library (of botocore for `bedrock`, google-auth for `vertex`,
            azure-identity for `azure`), if they are not those that it finds itself; then no key is used, from the environment neither.  Called once.
        prices: the price list of its models, e.g. `groq`; None: the list that has the account's name, else the kind's.
        price_factor: by which the list's prices are multiplied, e.g. `Decimal("1.1")` for a region that costs 10 % more.

    Raises:
        InvalidJob: `base_url` is no valid URL, `api_key` is no function, or `price_factor` is no positive `Decimal` or `int`.
    """

    kind: str
    base_url: str | None = None
    api_key_env: str | None = None
    api_key: Callable[[], str] | None = field(default=None, repr=False)
    keyless: str | None = None
    credentials: Callable[[], Any] | None = field(default=None, repr=False)
    prices: str | None = None
    price_factor: Decimal = Decimal(1)

    def __post_init__(self) -> None:
        if not isinstance(self.price_factor, Decimal | int) or not 0 < self.price_factor < 1_000:
            raise InvalidJob(
                f"price_factor= of an account of kind {self.kind} is {self.price_factor!r}; it must be a Decimal above 0 and below 1,000. Nothing was sent. "
                "Give e.g. price_factor=Decimal('1.1')."
            )
        if self.base_url is not None:
            check_url(self.base_url, f"The base URL of an account of kind {self.kind}")
        if self.api_key is not None and not callable(self.api_key):  # the message does not show it: it may be the key
            raise InvalidJob(
                f"api_key= of an account of kind {self.kind} is a {type(self.api_key).__name__}; it must be a function that returns the key. "
                "Nothing was sent. Put the key in an environment variable and name that in api_key_env=, or give a function."
            )
        if self.credentials is not None and not callable(self.credentials):
            raise InvalidJob(
                f"credentials= of an account of kind {self.kind} is a {type(self.credentials).__name__}; it must be a function that returns them. "
                "Nothing was sent. Give e.g. credentials=lambda: mine."
            )

    @staticmethod
    def of(kind: str, **fields: Any) -> Account:
        """An account of a built-in kind, of the class that its accounts have, e.g. `BedrockAccount`; `fields` as of that class."""
        return TYPES.get(kind, Account)(kind=kind, **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureAccount(Account):
    """One resource of Azure OpenAI (Microsoft Foundry).

    Args:
        base_url: the resource's endpoint, e.g. `https://my-resource.openai.azure.com`; None: the variable `AZURE_OPENAI_ENDPOINT`.
        deployments: the deployment of each model in the batch lane (its type is Global Batch or Data Zone Batch), by the model's name; a model that is
            not named has a deployment of its own name.
        fast_deployments: the same in the fast lanes, since a deployment for batches answers no single requests.
    """

    kind: str = "azure"
    deployments: Mapping[str, str] = field(default_factory=dict)
    fast_deployments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BedrockAccount(Account):
    """One AWS account in one region, at Bedrock.

    Args:
        region: e.g. `us-east-1`; "": the variable `AWS_REGION`.
        bucket: where the inputs and outputs of batches are kept, `s3://bucket/prefix`, in the same region; "": the variable `KELD_BEDROCK_BUCKET`.
        role: the ARN of the service role that reads and writes there; "": the variable `KELD_BEDROCK_ROLE`.
    """

    kind: str = "bedrock"
    region: str = ""
    bucket: str = ""
    role: str = ""

    def __post_init__(self) -> None:
        Account.__post_init__(self)
        _check_field(self, "region", r"[a-z]{2,}(-[a-z]+)+-\d+", "us-east-1")
        _check_field(self, "bucket", r"s3://[^/\s\"']+(/[^\s\"']*)?", "s3://my-bucket/keld")
        _check_field(self, "role", r"arn:[^:]+:iam::\d+:role/[^\s\"']+", "arn:aws:iam::123456789012:role/keld-batches")


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexAccount(Account):
    """One Google Cloud project in one location, at Vertex AI.

    Args:
        project: its id, or its number, which Google takes as well; always the same of the two, since the ledger takes them for two projects;
            "": the variable `GOOGLE_CLOUD_PROJECT`.
        location: e.g. `us-central1` or `global`; "": the variable `GOOGLE_CLOUD_LOCATION`.
        bucket: where the inputs and outputs of batches are kept, `gs://bucket/prefix`; "": the variable `KELD_VERTEX_BUCKET`.
    """

    kind: str = "vertex"
    project: str = ""
    location: str = ""
    bucket: str = ""

    def __post_init__(self) -> None:
        Account.__post_init__(self)
        _check_field(self, "project", r"[a-z0-9][a-z0-9.:-]*", "my-project")  # a domain's project has its name and a colon before it
        _check_field(self, "location", r"[a-z][a-z0-9-]*", "us-central1")
        _check_field(self, "bucket", r"gs://[^/\s\"']+(/[^\s\"']*)?", "gs://my-bucket/keld")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfHostedAccount(Account):
    """A server of the user's own with OpenAI's requests: vLLM, SGLang, TGI, Ollama, llama.cpp, or a gateway in front of them.

    Args:
        gpu_hour_usd: what an hour of the host costs; its answers are then priced by the time the host was busy.  None: by the job's `prices`.
        deployments: the name of a model in jobs -> its name at the host, where they differ.
        most_at_once: the most requests in flight together.
        pack_rows: the most rows of embeddings in one request.
        length_field: which field limits an answer.  Ollama ignores `max_completion_tokens` without a word
            (github.com/ollama/ollama/issues/7125, 21 Aug 2026), and every engine knows `max_tokens`; OpenAI's newer models behind a gateway refuse it.

    Raises:
        InvalidJob: `gpu_hour_usd` is no amount of money, or a number is below 1.
    """

    kind: str = "self_hosted"
    gpu_hour_usd: Decimal | int | float | str | None = None
    deployments: Mapping[str, str] = field(default_factory=dict)
    most_at_once: int = 512
    pack_rows: int = 32
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"

    def __post_init__(self) -> None:
        Account.__post_init__(self)
        if self.gpu_hour_usd is not None:
            object.__setattr__(self, "gpu_hour_usd", _amount(self.gpu_hour_usd))
        if min(self.most_at_once, self.pack_rows) < 1:
            raise InvalidJob("most_at_once= and pack_rows= of an account must be 1 or more. Nothing was sent.")


TYPES: Mapping[str, type[AzureAccount | BedrockAccount | SelfHostedAccount | VertexAccount]] = {
    "azure": AzureAccount,
    "bedrock": BedrockAccount,
    "self_hosted": SelfHostedAccount,
    "vertex": VertexAccount,
}
"""The class of the accounts of each built-in kind that needs more than an address and a key."""


def _check_field(account: Account, name: str, pattern: str, example: str) -> None:
    """Checks a field that is not empty: a slip here would be seen only in the reply to a create, which may refuse the rows for good.

    Raises:
        InvalidJob: it has not the form.
    """
    given = getattr(account, name)
    if given and not re.fullmatch(pattern, given):
        raise InvalidJob(f"The {name} of an account of kind {account.kind} is {given!a}. Nothing was sent. Write it like {example!r}.")


def check_unquoted(key: str, name: str) -> None:
    """Passes if a key is not within quotation marks.

    Raises:
        AccessRefused: it is.
    """
    if key[:1] in ("'", '"') or key[-1:] in ("'", '"'):
        raise AccessRefused(
            f"The key of {name} begins or ends with a quotation mark, which no provider's key does: a shell removes it, and a file of variables "
            "(docker --env-file, systemd, a secret that was pasted) may not. No call was made. Give only the key.",
            account=name,
        )


def place_of(account: Account, field_name: str, variable: str, known: Collection[str]) -> str:
    """What to check if no host has the name that is made from a field of the account, as a clause; "" if the field is one of the `known`."""
    given = getattr(account, field_name)
    if given in known:
        return ""
    near = get_close_matches(given, known, 3)
    meant = f" (did you mean {' or '.join(near)}?)" if near else ""
    return f"check {field_name}= of the account, or {variable}: no {field_name} {given!r} is known{meant}"


def account_names(wrong: str, known: Collection[str]) -> str:
    """The names of the accounts, for the error of a wrong one, with the nearest."""
    near = get_close_matches(wrong, known, 1)
    return f"the accounts are {', '.join(sorted(known))}" + (f" (did you mean {near[0]!r}?)" if near else "")


def completed(account: Account, variables: Mapping[str, str]) -> Account:
    """The account with its empty fields filled from the environment; `variables` has the variable of each field.

    Raises:
        InvalidJob: a field is empty, and its variable is not set.
    """
    found = {name: getattr(account, name) or os.environ.get(variable, "") for name, variable in variables.items()}
    if missing := [name for name, value in found.items() if not value]:
        raise InvalidJob(
            f"An account of kind {account.kind} needs {', '.join(f'{name}= (or {variables[name]})' for name in missing)}. Nothing was sent. "
            f"Give it to the account (keld.{type(account).__name__}, the extra of an Airflow connection, KeldAccount in Dagster), "
            "or set the environment variable."
        )
    filled: dict[str, Any] = found
    return replace(account, **filled)


def _amount(given: object) -> Decimal:
    """A positive amount of money.

    Raises:
        InvalidJob: it is none.
    """
    try:
        amount = Decimal(str(given))
    except InvalidOperation:
        amount = Decimal(0)
    if not amount.is_finite() or amount <= 0:
        raise InvalidJob(
            f"gpu_hour_usd={given!r} of an account is no amount above 0. Nothing was sent. Give USD an hour, e.g. gpu_hour_usd='2.49'."
        )
    return amount


# The hosts of the vendors; a server of one's own may well be reached by http.
_PUBLIC = re.compile(
    r"(?:^|\.)(?:openai\.com|anthropic\.com|azure\.com|googleapis\.com|amazonaws\.com(?:\.cn)?|mistral\.ai|groq\.com|x\.ai|together\.(?:ai|xyz)"
    r"|openrouter\.ai|fireworks\.ai|deepinfra\.com)$"
)
_CALL = re.compile(r"/(?:chat/completions|completions|responses|embeddings|messages|batches|files|models/[^/]+:\w+)/?$")


_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)\.(\d+)").fullmatch


def _wrong_in(url: str) -> str | None:
    """What keeps an address from being a base URL, as a clause; None: nothing."""
    if any(char.isspace() or not char.isprintable() for char in url):
        return "has a blank or a line end in it"
    if set(url) & set("\"'`"):
        return "has a quotation mark in it, which a shell removes and a file of variables (docker --env-file) does not"
    try:
        parts = urlsplit(url)
        named = parts.hostname and (parts.port is None or parts.port)
        (parts.hostname or "").encode("idna")  # no part is empty or too long
        if (numbers := _NUMBERS(parts.hostname or "")) and any(int(number) > 255 for number in numbers.groups()):
            return "cannot be read"
    except ValueError:
        return "cannot be read"
    if parts.scheme.lower() not in ("http", "https") or "://" not in url:
        return "does not begin with https:// or http://"
    if not named:
        return "names no host"
    if parts.scheme.lower() == "http" and _PUBLIC.search(parts.hostname or ""):
        return "begins with http://, so the key and the prompts would travel unencrypted"
    if parts.query or parts.fragment:
        return "has a ? or a # in it, and so is the address of a call; a base URL is the part before the calls' paths"
    found = _CALL.search(parts.path)
    return f"ends with {found[0]}, the path of a call, which is added to it" if found else None


def check_url(url: str, subject: str) -> None:
    """Checks that calls can be made to `url`.

    Raises:
        InvalidJob: they cannot.  The message begins with `subject` and never shows a user or a password.
    """
    shown, wrong = url.rpartition("@")[2], _wrong_in(url)
    if wrong is not None:
        raise InvalidJob(
            f"{subject}, {shown!a}, {wrong}. Nothing was sent. Write the complete URL: https://, the host, and its path if it has one."
        )


def url_of(account: Account, variable: str | None, official: str | Callable[[Account], str] | None) -> str:
    """The base URL of an account: its own, else that in the environment `variable`, else the `official` host (see `Preset.base_url`).

    Raises:
        InvalidJob: the environment variable holds no valid URL, or there is no URL at all.
    """
    url = account.base_url
    if url is None and (url := os.environ.get(variable or "") or None) is not None:
        check_url(url, f"The environment variable {variable}")
    if callable(official):
        url = official(replace(account, base_url=url))
        check_url(url, f"The base URL of an account of kind {account.kind}")
    if url is None and official is None:
        raise InvalidJob(
            f"An account of kind {account.kind} needs base_url=, the address of its host{f' (or {variable})' if variable else ''}. Nothing was sent. "
            f"Give e.g. {type(account).__name__}(kind={account.kind!r}, base_url='https://llm.example/v1')."
        )
    return url or str(official)


def origin(url: str) -> str:
    """`scheme://host[:port]` of a base URL, without user, password or path."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def key_of(name: str, account: Account, default: str | None, *, token: str | None = None, optional: bool = False) -> str:
    """The key of an account, without spaces and line ends around it.

    It comes from `api_key()`, else from the environment variable `api_key_env`, else from the variable `default`, else from `token`.  "" if no key is needed
    (`default` is None, or it is `optional` and the account names no key) and none is found.

    Raises:
        AccessRefused: it is not set, or it cannot be a key.
    """
    variable = account.api_key_env or default
    read = (account.api_key_env,) if account.api_key_env else (default, token)
    found = next((os.environ[one] for one in read if one and os.environ.get(one)), "")
    key = (account.api_key() if account.api_key is not None else found).strip()
    check_unquoted(key, name)
    if key and (not key.isascii() or not key.isprintable() or " " in key):  # HTTP libraries quote such a key in their errors
        raise AccessRefused(
            f"The key of {name} holds a space, a line end or a character that is not ASCII, which no provider's key does. No call was made. "
            "Copy it again, and only the key.",
            account=name,
        )
    if key or variable is None or (optional and account.api_key is None and account.api_key_env is None):
        return key
    unset = None if account.api_key is not None else f"the environment variable {variable} is not set"
    why = ", and ".join(filter(None, (account.keyless or (None if unset else "its api_key function returned none"), unset)))
    raise AccessRefused(f"No key for {name}: {why}. No call was made. Give one and run again.", account=name)


# The accounts that are there from the start: one of each built-in kind whose address is known, or can come from the environment.
ACCOUNTS: dict[str, Account] = {
    kind: TYPES[kind]() if kind in TYPES else Account(kind=kind) for kind in sorted(BUILT_IN) if kind != "openai_compatible"
}
