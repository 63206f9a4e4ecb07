"""A base URL that cannot be one is told when it is read, not as a lost connection hours later."""

import pytest

from keld import Account
from keld.errors import InvalidJob
from keld.providers.provider import connect
from tests.support.ticket_job import Peer

BAD = [
    "api.openai.com/v1", "localhost:8000", "localhost", "ftp://host/v1", "htps://host", "https://", "https:///v1", "http:host", "https://host/v1\n",
    " https://host/v1", "https://ho st/v1", "https://host:port/v1", "https://host:99999/v1", "http://[::1/v1", "https://host/\u2028v1", "", "/v1",
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
    "url", ["https://host", "http://127.0.0.1:8700/v1", "HTTPS://host/v1/", "http://[::1]:80/v1", "https://user:pw@host/v1"]
)
def test_what_is_one_is_taken(url: str, peer: Peer) -> None:
    assert "pw" not in connect(peer.name, Account(kind=peer.name, base_url=url)).host


def test_a_password_in_a_base_url_is_not_shown() -> None:
    with pytest.raises(InvalidJob) as refused:
        Account(kind="openai", base_url="user:secret@host")
    assert "secret" not in str(refused.value)
