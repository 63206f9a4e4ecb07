"""Account: an Airflow connection -> an account of a provider, read as the hook reads it that the connection's type belongs to.

A connection of type `keld`, or one that is already there for another provider package of Airflow's: keys, base URL, region and roles stay in one place.
A field is read, or changes nothing of whose account is used and of what is sent (a number of retries), or is refused in words: a field that was
passed over in silence would be somebody else's account, or another region's.  Beside what its own hook reads, the extra of any of them may have
Keld's fields (`account`, `bucket`, `deployments`, ...).  The types and fields are those of the provider packages of November 2026: openai 2.2,
anthropic 1.2, common-ai 1.0, amazon 9.39, google 22.8, microsoft-azure 15.2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException

from keld import Account, InvalidJob, account_fields, account_of
from keld_airflow import cloud
from keld_airflow.provider import CONNECTION_FIELDS

if TYPE_CHECKING:
    from airflow.sdk import Connection

_KINDS: list[str] = CONNECTION_FIELDS["provider"]["schema"]["enum"]
_NAME = re.compile(r"[A-Za-z0-9_-]+")  # as a job's `models` have it before the colon
# Pydantic AI's names of the kinds, where they differ.
_PYDANTIC_AI = {
    "openai-chat": "openai", "openai-responses": "openai", "google-gla": "gemini", "google": "gemini", "grok": "xai", "ollama": "self_hosted",
    "vllm": "self_hosted", "litellm": "openai_compatible",
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class _Read:
    """What a connection says of an account; what is left in `extra` at the end are fields of Keld's, or unknown."""

    connection: Connection
    extra: dict[str, Any]
    kind: str = ""
    key: str = ""
    base_url: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    credentials: Callable[[], Any] | None = None
    key_at: str = "its password"

    def take(self, *names: str) -> Any:
        """The value of the first of these fields that has one, without all of them; None if none has."""
        taken = [self.extra.pop(name, None) for name in names]
        return next((value for value in taken if value not in (None, "", {}, [])), None)

    def text(self, *names: str) -> str | None:
        value = self.take(*names)
        return None if value is None else str(value).strip() or None

    def mapping(self, name: str) -> dict[str, Any]:
        """A field that is a JSON object, or its text."""
        value = self.take(name)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                value = 0
        if value is not None and not isinstance(value, dict):
            self.refuse(f"has a field {name!r} that is no JSON object.", "Write one, or leave it out.")
        return dict(value or {})

    def refuse_if(self, names: tuple[str, ...], advice: str) -> None:
        """Refuses the fields of a way to sign in that Keld does not know."""
        for name in names:
            if self.take(name) is not None:
                self.refuse(f"has a field {name!r}, by which its own hook would sign in, and Keld cannot.", advice)

    def refuse(self, what: str, advice: str) -> NoReturn:
        raise AirflowFailException(f"The connection {self.connection.conn_id} {what} Nothing was sent. {advice}")


def account_in(connection: Connection) -> tuple[str, Account]:
    """A connection as an account, by the name before the colon in a job's models.

    Raises:
        AirflowFailException: it is of a type that holds no account, or has a field or a value that Keld does not accept.
    """
    extra = connection.extra_dejson
    # A field without the old prefix wins over the same one with it, as in the hooks, in whatever order they stand.
    named = {_unprefixed(name): value for name, value in extra.items()} | {n: v for n, v in extra.items() if not n.startswith("extra__")}
    read = _Read(connection=connection, extra=named)
    reader = _READERS.get(connection.conn_type or "")
    if reader is None:
        read.refuse(
            f"is of type {connection.conn_type}, which holds no account of a provider.",
            f"The types are {', '.join(_READERS)}. Make it one of type keld.",
        )
    if not connection.host and (connection.port or connection.schema) and connection.conn_type in _WITH_HOST:
        read.refuse("has a port or a schema, and no host.", "Give the whole base URL as its host.")
    if connection.conn_type == "keld" and _says_twice(connection):
        read.refuse("has a port or a schema beside a base URL that has its own.", "Give the whole base URL as its host, and nothing else.")
    reader(read)
    name = str(read.take("account") or read.kind).strip()
    if not _NAME.fullmatch(name):
        read.refuse(f"has account={name!r}, which no job can name before a colon in its models.", "Give it letters, digits, '_' and '-'.")
    _check_known(read)
    key = read.key.strip()
    try:
        account = account_of(
            read.kind,
            read.fields | {name: value for name, value in read.extra.items() if name not in CONNECTION_FIELDS},
            f"The connection {connection.conn_id}",
            base_url=read.base_url,
            api_key=(lambda: key) if key else None,
            keyless=f"the connection {connection.conn_id} has none ({read.key_at})",
            credentials=read.credentials,
        )
    except InvalidJob as problem:
        raise AirflowFailException(str(problem)) from None
    return name, account


def _check_known(read: _Read) -> None:
    """Passes if Keld reads every field that is left."""
    known = (*CONNECTION_FIELDS, *account_fields())
    for name in read.extra:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            advice = f"Is {near[0]} meant?" if near else f"There are {', '.join(known)}; the API key is {read.key_at.removeprefix('its ')}."
            if name in ("base_url", "api_base", "endpoint"):
                advice = "The base URL is the connection's host."
            elif not near and read.key_at == "its password":
                advice = f"There are {', '.join(known)}; the API key is the password."
            read.refuse(f"has a field {name!r}, which Keld does not know.", advice)


# -- the types, each as its own hook reads it ----------------------------------------------------------------------


def _keld(read: _Read) -> None:
    connection = read.connection
    if connection.login:  # the error does not quote it: it may be the key
        read.refuse(
            "has a login, which Keld does not use; the API key is its password (in a URI keld://:KEY@).", "Move it there, or remove it."
        )
    read.kind = str(read.take("provider") or "openai").strip()
    if read.kind not in _KINDS:
        read.refuse(
            f"has provider={read.kind!r}; the providers are {', '.join(_KINDS)}.",
            "Hosts of OpenAI's shape are openai, with their base URL as the host.",
        )
    read.key, read.base_url = connection.password or "", _base_url(connection)


def _openai(read: _Read) -> None:
    if (way := read.text("auth_type")) not in (None, "api_key"):
        read.refuse(f"has auth_type={way!r}, and Keld signs in with an API key.", "Give a connection with a key.")
    _client(read, "openai", "openai_client_kwargs")


def _anthropic(read: _Read) -> None:
    if (platform := (read.text("platform") or "anthropic").lower()) != "anthropic":
        other = {"bedrock": "aws", "aws": "aws", "vertex": "google_cloud_platform", "foundry": "azure"}.get(platform, "keld")
        read.refuse(f"has platform={platform!r}, which is another provider's account.", f"Give a connection of type {other}.")
    read.refuse_if(("workload_identity",), "Give a connection with a key.")
    read.take("model", "aws_region", "project_id", "region", "resource")  # a default model, and what only other platforms read
    _client(read, "anthropic", "anthropic_client_kwargs")


def _client(read: _Read, kind: str, arguments: str) -> None:
    """Key and base URL, which the arguments of the client win over, as in the hooks of both SDKs."""
    given = read.mapping(arguments)
    read.kind = _provider(read) or kind
    read.key = str(given.pop("api_key", None) or read.connection.password or "")
    read.base_url = given.pop("base_url", None) or _base_url(read.connection)
    for harmless in ("timeout", "max_retries"):
        given.pop(harmless, None)
    if given:
        read.refuse(
            f"has {', '.join(map(repr, given))} in {arguments}, which Keld does not send.",
            "Give a connection without it; the key of a project or a workspace says whose it is.",
        )


def _pydantic_ai(read: _Read) -> None:
    """One type for every provider with a key: its model says which."""
    read.take("fallback_conn_ids")  # another account's; here a job names it in `models`
    prefix = (read.text("model") or "").partition(":")[0]
    kind = _provider(read) or _PYDANTIC_AI.get(prefix, prefix)
    if kind not in _KINDS:
        read.refuse(
            f"names no provider that Keld knows: its model begins with {prefix!r}.",
            "Give it a model such as openai:gpt-5-mini, or a field provider in its extra, of " + ", ".join(_KINDS) + ".",
        )
    read.kind, read.key, read.base_url = kind, read.connection.password or "", _base_url(read.connection)


def _pydantic_ai_azure(read: _Read) -> None:
    read.take("model", "fallback_conn_ids", "api_version")  # Keld calls the API that has no versions
    read.kind, read.key, read.base_url = "azure", read.connection.password or "", _base_url(read.connection)


def _pydantic_ai_bedrock(read: _Read) -> None:
    read.take("model", "fallback_conn_ids", "aws_read_timeout", "aws_connect_timeout")
    if read.take("base_url") is not None:
        read.refuse(
            "has base_url, the address of Bedrock's runtime; batches have another one.", "Set AWS_ENDPOINT_URL_BEDROCK, and remove it."
        )
    key = read.text("api_key")
    _bedrock(read, None if key else _aws_key(read, None, None))
    if key:
        read.key, read.credentials, read.key_at = key, None, "api_key in its extra"


def _pydantic_ai_vertex(read: _Read) -> None:
    read.take("fallback_conn_ids", "vertexai")
    if (read.text("model") or "").partition(":")[0] in ("google", "google-gla"):
        read.kind, read.key, read.key_at = "gemini", read.text("api_key") or "", "api_key in its extra"
        read.base_url = read.text("base_url")
        read.take("project", "location", "service_account_info")
        return
    read.refuse_if(("api_key",), "Give service_account_info, or a connection of type google_cloud_platform.")
    read.base_url = read.text("base_url")
    _vertex(read, read.mapping("service_account_info") or None)


def _aws(read: _Read) -> None:
    connection = read.connection
    in_config = read.mapping("config_kwargs").get("region_name")
    if in_config and not read.extra.get("region_name"):  # botocore takes it then
        read.extra["region_name"] = in_config
    read.take("verify", "assume_role_kwargs" if "role_arn" not in read.extra else "")
    read.refuse_if(("session_kwargs", "s3_config_file", "profile"), "Write the key as login and password, or profile_name, region_name.")
    services, endpoint = read.mapping("service_config"), read.text("endpoint_url")
    read.base_url = str((services.get("bedrock") or {}).get("endpoint_url") or endpoint or "") or None
    if (connection.login is None or connection.login == "") != (not connection.password):
        read.refuse("has a login or a password alone.", "The login is the id of the access key, the password its secret.")
    _bedrock(read, _aws_key(read, connection.login, connection.password))


def _aws_key(read: _Read, login: str | None, password: str | None) -> tuple[str, str, str | None] | None:
    """(id, secret, session token): of login and password, else of the extra; None: what botocore finds."""
    key, secret, token = read.text("aws_access_key_id"), read.text("aws_secret_access_key"), read.text("aws_session_token")
    if login and password:
        key, secret = login.strip(), password.strip()
    if bool(key) != bool(secret) or (token and not key):
        read.refuse("has a part of an access key of AWS.", "Give aws_access_key_id and aws_secret_access_key, or neither.")
    return (key, secret, token) if key and secret else None


def _bedrock(read: _Read, key: tuple[str, str, str | None] | None) -> None:
    profile, role_arn, method = read.text("profile_name"), read.text("role_arn"), read.text("assume_role_method")
    if role_arn is not None and (method or "assume_role") != "assume_role":
        read.refuse(f"assumes a role by {method}, which Keld cannot.", "Give a connection with a key or with assume_role.")
    read.kind, region = "bedrock", read.text("region_name")
    if region and read.extra.get("region") not in (None, "", region):
        read.refuse(f"has region_name={region!r} and region={read.extra['region']!r}.", "Leave one of them.")
    if region:
        read.fields["region"] = region
    assumed = {"RoleSessionName": "keld", **read.mapping("assume_role_kwargs")}
    if key or profile or role_arn:
        read.credentials = cloud.aws(key, profile=profile, role_arn=role_arn, role=assumed, region=region or read.extra.get("region"))


def _google(read: _Read) -> None:
    read.take("scope", "num_retries")  # Keld asks for the scope that Vertex AI needs
    read.refuse_if(
        (
            "key_secret_name",
            "key_secret_project_id",
            "idp_issuer_url",
            "client_id",
            "client_secret",
            "idp_extra_parameters",
            "idp_extra_params",
        ),
        "Give keyfile_dict, key_path, credential_config_file, or none of them where the machine has a service account.",
    )
    if str(read.take("is_anonymous") or "").lower() == "true":
        read.refuse("is anonymous.", "Vertex AI needs a service account.")
    _vertex(read, read.mapping("keyfile_dict") or None)


def _vertex(read: _Read, keyfile: dict[str, Any] | None) -> None:
    path, config, quota = read.text("key_path"), read.take("credential_config_file"), read.text("quota_project_id")
    chain = read.take("impersonation_chain") or ()
    chain = [one.strip() for one in chain.split(",") if one.strip()] if isinstance(chain, str) else list(chain)
    if sum(one is not None for one in (keyfile, path, config)) > 1:
        read.refuse("has more than one key of Google Cloud.", "Leave one of keyfile_dict, key_path and credential_config_file.")
    if isinstance(config, str) and config.lstrip().startswith("{"):
        read.extra["credential_config_file"] = config
        config = read.mapping("credential_config_file")
    read.kind = "vertex"
    project = read.text("project") or (keyfile or {}).get("project_id")
    if project:
        read.fields["project"] = project
    if keyfile or path or config or chain or quota:
        read.credentials = cloud.google(
            read.connection.conn_id, keyfile=keyfile, path=path, config=config, chain=chain, quota_project=quota
        )


def _azure(read: _Read) -> None:
    connection = read.connection
    read.take("subscriptionId", "use_azure_identity_object")
    read.refuse_if(("key_path", "key_json"), "Give the service principal as login, password and tenantId.")
    if (environment := read.text("cloud_environment")) not in (None, "AzurePublicCloud"):
        read.refuse(f"has cloud_environment={environment!r}, and Keld calls AzurePublicCloud.", "Give a connection of it.")
    tenant, identity = read.text("tenantId"), read.text("managed_identity_client_id")
    workload = read.text("workload_identity_tenant_id")
    given = (connection.login, connection.password, tenant)
    if any(given[:2]) and not all(given):
        read.refuse("has a part of a service principal.", "Give its client id as login, its secret as password, and tenantId.")
    read.kind, read.base_url = "azure", read.text("azure_endpoint") or _base_url(connection)
    secret = (str(tenant), str(connection.login), str(connection.password)) if all(given) else None
    read.credentials = cloud.azure(secret, managed_identity=identity, workload_tenant=workload)


_READERS: Mapping[str, Callable[[_Read], None]] = {
    "keld": _keld,
    "openai": _openai,
    "anthropic": _anthropic,
    "pydanticai": _pydantic_ai,
    "pydanticai_azure": _pydantic_ai_azure,
    "pydanticai_bedrock": _pydantic_ai_bedrock,
    "pydanticai_vertex": _pydantic_ai_vertex,
    "aws": _aws,
    "google_cloud_platform": _google,
    "azure": _azure,
}
_WITH_HOST = frozenset(("keld", "openai", "anthropic", "pydanticai", "pydanticai_azure"))


def _provider(read: _Read) -> str | None:
    """The field `provider` of Keld's, for a host that speaks the API of another kind than its connection's type says."""
    kind = read.text("provider")
    if kind is not None and kind not in _KINDS:
        read.refuse(f"has provider={kind!r}; the providers are {', '.join(_KINDS)}.", "Correct it, or remove it.")
    return kind


def _unprefixed(name: str) -> str:
    """The name of a field; connections of early versions of Airflow have it as `extra__google_cloud_platform__project`."""
    return name.rpartition("__")[2] if name.startswith("extra__") else name


def _base_url(connection: Connection) -> str | None:
    """The base URL; None: the provider's own."""
    host, port, schema = (connection.host or "").strip(), connection.port, (connection.schema or "").strip("/ ")
    if not host or ("://" in host and connection.conn_type != "keld"):  # the hooks of other packages read the host alone
        return host or None
    scheme, path = (
        (schema, "") if schema in ("http", "https") else ("https", schema)
    )  # Airflow's own HTTP connections keep the scheme in this field
    given, _, place = host.rpartition("://")  # Airflow takes keld://http://:KEY@host:8000/v1 apart into three fields
    if given and not port and not path:
        return host
    return f"{given or scheme}://{place.rstrip('/')}{f':{port}' if port else ''}/{path}".rstrip("/")


def _says_twice(connection: Connection) -> bool:
    """True if the host is a URL with a port or a path, and the connection has another one."""
    host, port, schema = (connection.host or "").strip(), connection.port, (connection.schema or "").strip("/ ")
    place, _, path = host.rpartition("://")[2].partition("/")
    has_port = place.rpartition("]")[2].count(":") == 1  # behind the brackets of an IPv6 address
    return "://" in host and bool((port and (has_port or path)) or (path and schema not in ("", "http", "https")))
