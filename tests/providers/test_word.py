"""What people read of a failed reply, at every kind: once the status, and a word that says more than the status does."""

import re

import pytest

from keld.emulator import Emulator
from keld.errors import KeldError
from keld.providers.account import ACCOUNTS
from keld.providers.provider import connect
from keld.providers.word import reply_words
from tests.support.ticket_job import PEERS, fault


@pytest.mark.parametrize("kind", sorted(PEERS.keys() - {"anthropic"}))  # which has a closed list of codes
@pytest.mark.parametrize(
    ("status", "code", "word"),
    [(401, "401", "Unauthorized"), (403, "http_error", "Forbidden"), (400, "error", "Bad Request"), (400, "wrong_thing", "wrong_thing")],
)
def test_a_refusal_is_told_with_its_status_once_and_a_word(emulator: Emulator, kind: str, status: int, code: str, word: str) -> None:
    """`HTTP 401 401` (Azure) and `HTTP 401 http_error` (Mistral) say nothing twice."""
    fault(emulator, "list", "status", status=status, code=code, times=None)
    provider = connect(kind, ACCOUNTS[kind])
    with pytest.raises(KeldError) as refused:
        provider.newest()
    provider.close()
    assert re.findall(r"HTTP .*?(?=[.:](?:\s|$))", str(refused.value)) == [f"HTTP {status} {word}"], str(refused.value)


@pytest.mark.parametrize(
    ("kind", "at"),  # an upload to a bucket is followed to another address by the library, without what signs it
    [(name, at) for name, peer in PEERS.items() for at in ("list", "upload") if at == "list" or not peer.in_bucket],
)
def test_a_redirect_is_told_as_one_whatever_was_asked(emulator: Emulator, kind: str, at: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A proxy's page to log in is at another address, and the key does not follow."""
    fault(emulator, at, "redirect", times=None)
    provider = connect(kind, ACCOUNTS[kind])
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"{}\n")
    with pytest.raises(KeldError) as refused:
        if at == "upload" and provider.upload(path, "abcdefghij") is None:
            pytest.skip("nothing is uploaded before the create")
        provider.newest()
    provider.close()
    assert "redirects" in str(refused.value) and "key is not sent" in str(refused.value), str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [((429, "slow_down"), "HTTP 429 slow_down"), ((529, ""), "HTTP 529"), ((None, "gone"), "HTTP ? gone"), (("abc", None), "HTTP abc")],
)
def test_words_of_statuses_that_have_no_name(given: tuple[object, object], said: str) -> None:
    assert reply_words(*given) == said  # type: ignore[arg-type]
