"""A base URL that cannot be one is told when it is read, not as a lost connection hours later."""

from dataclasses import replace

import pytest

from keld import Account, AzureAccount
from keld.emulator import Emulator
from keld.errors import AccessRefused, InvalidJob
from keld.providers.account import ACCOUNTS, key_of
from keld.providers.provider import connect
from tests.support.ticket_job import PEERS, Peer

BAD = [
    "api.openai.com/v1", "localhost:8000", "localhost", "ftp://host/v1", "htps://host", "https://", "https:///v1", "http:host", "https://host/v1\n",
    " https://host/v1", "https://ho st/v1", "https://host:port/v1", "https://host:99999/v1", "http://[::1/v1", "https://host/\u2028v1", "", "/v1",
    "https://llm..example/v1", "https://m\u00fcnchen..example/v1", f"https://{'a' * 64}.example/v1", "https://256.0.0.1/v1",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD, ids=ascii)
def test_what_is_no_base_url_is_refused_where_it_stands(url: str, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidJob, match="Nothing was sent"):
        Account(kind=peer.name, base_url=url)
    variable = f"{peer.name.upper()}_BASE_URL"
    monkeypatch.setenv(variable, url)
    if url:
        with pytest.raises(InvalidJob, match=variable):
            connect(peer.name, Account(kind=peer.name))
    else:
        assert connect(peer.name, Account(kind=peer.name)).host.startswith("https://api."), "an empty variable is none"


@pytest.mark.parametrize(
    "url",
    [
        "https://host",
        "http://127.0.0.1:8700/v1",
        "HTTPS://host/v1/",
        "http://[::1]:80/v1",
        "https://user:pw@host/v1",
        "https://m\u00fcnchen.example/v1",
    ],
)
def test_what_is_one_is_taken(url: str, peer: Peer) -> None:
    assert "pw" not in connect(peer.name, Account(kind=peer.name, base_url=url)).host


def test_a_password_in_a_base_url_is_not_shown() -> None:
    with pytest.raises(InvalidJob) as refused:
        Account(kind="openai", base_url="user:secret@host")
    assert "secret" not in str(refused.value)


SLIPS = [
    ('"https://host/v1"', "quotation mark"),
    ("'https://host/v1'", "quotation mark"),
    ("https://host/v1/chat/completions", "/chat/completions"),
    ("https://host/v1/batches/", "/batches"),
    ("https://host/v1/messages", "/messages"),
    ("https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21", r"has a \?"),
    ("https://host/v1#top", "has a"),
    ("http://api.openai.com/v1", "unencrypted"),
    ("http://api.anthropic.com", "unencrypted"),
    ("http://my-resource.openai.azure.com", "unencrypted"),
    ("http://bedrock.us-east-1.amazonaws.com", "unencrypted"),
    ("http://generativelanguage.googleapis.com", "unencrypted"),
]


@pytest.mark.parametrize(("url", "said"), SLIPS)
def test_a_slip_in_an_address_is_named_before_anything_is_sent(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of a portal shows the address of a call, and `docker --env-file` keeps the quotes."""
    for variable, kind in (("OPENAI_BASE_URL", "openai"), ("AZURE_OPENAI_ENDPOINT", "azure"), ("GOOGLE_GEMINI_BASE_URL", "gemini")):
        monkeypatch.setenv(variable, url)
        with pytest.raises(InvalidJob, match=f"{variable}.*{said}.*Nothing was sent"):
            connect(kind, ACCOUNTS[kind])


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://r.openai.azure.com", "https://r.openai.azure.com/", "https://r.openai.azure.com/openai", "https://r.openai.azure.com/openai/v1/",
        "https://r.openai.azure.com/openai/deployments/d", "https://r.openai.azure.com/openai/v1/openai/v1/",
    ],
)  # fmt: skip
def test_every_form_of_an_azure_endpoint_is_one_address(endpoint: str) -> None:
    assert connect("azure", AzureAccount(base_url=endpoint))._connection.base_url == "https://r.openai.azure.com/openai/v1"
    project = AzureAccount(base_url="https://r.services.ai.azure.com/api/projects/p")
    assert connect("azure", project)._connection.base_url == "https://r.services.ai.azure.com/openai/v1"
    gateway = AzureAccount(base_url="https://gw.example/team/openai/v1")
    assert connect("azure", gateway)._connection.base_url == "https://gw.example/team/openai/v1"


def test_the_version_that_a_path_has_already_is_not_doubled() -> None:
    assert connect("anthropic", Account(kind="anthropic", base_url="https://gw.example/v1/"))._connection.base_url == "https://gw.example"


@pytest.mark.parametrize("kind", sorted(PEERS))
@pytest.mark.parametrize("key", ['"sk-abcdef"', "'sk-abcdef'", 'sk-abcdef"'])
def test_a_key_in_quotation_marks_is_told_from_a_wrong_one(emulator: Emulator, kind: str, key: str) -> None:
    """The host would say 401, and the key in the vault is right."""
    provider = connect(kind, replace(ACCOUNTS[kind], api_key=lambda: key))
    with pytest.raises(AccessRefused, match=r"quotation mark.*No call was made") as refused:
        provider.newest()
    assert "abcdef" not in str(refused.value)
    assert emulator.requests() == []


@pytest.mark.parametrize(
    ("key", "token", "sent"), [("sk-key", "tok", "sk-key"), (None, "tok", "tok"), ("", "tok", "tok"), ("sk-key", None, "sk-key")]
)
def test_the_token_that_the_sdk_reads_stands_in_for_the_key(
    key: str | None, token: str | None, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gateways tell their users to set `ANTHROPIC_AUTH_TOKEN`; as the SDK does, it is read where there is no key."""
    for variable, value in (("ANTHROPIC_API_KEY", key), ("ANTHROPIC_AUTH_TOKEN", token)):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
    connect("anthropic", Account(kind="anthropic")).ready()
    assert key_of("anthropic", Account(kind="anthropic"), "ANTHROPIC_API_KEY", token="ANTHROPIC_AUTH_TOKEN") == sent
    named = Account(kind="anthropic", api_key_env="TEAM_KEY")
    with pytest.raises(AccessRefused, match="TEAM_KEY is not set"):
        key_of("anthropic", named, "ANTHROPIC_API_KEY", token="ANTHROPIC_AUTH_TOKEN")
