"""What is never told: keys in the shapes of every kind, in messages, codes and in the logs of the libraries that calls go through."""

import logging
from collections.abc import Iterator

import pytest

from keld.providers.fault import code_of, scrubbed
from keld.providers.log import hide_secrets
from tests.faults.secret import QUOTED, SHAPES, found_in


@pytest.mark.parametrize("shape", SHAPES)
def test_a_key_is_told_in_no_message_and_is_no_code(shape: str) -> None:
    said = scrubbed(f"The request with {shape} was refused: the model 'gpt-5-mini' is not there.", 1_000)
    assert found_in(said) == []
    assert said.startswith("The request with ") and said.endswith(" was refused: the model 'gpt-5-mini' is not there."), "the rest stays"
    assert code_of(shape) == "unreadable_code"


def test_ids_and_codes_are_no_keys() -> None:
    said = "batch_68a1f0c2 of projects/p-1/locations/us-central1, file-abc123, ThrottlingException, key_name, arn:aws:bedrock:us-east-1:1:job/x1"
    assert scrubbed(said, 1_000) == said
    for code in (
        "ServiceQuotaExceededException",
        "RESOURCE_EXHAUSTED",
        "token_limit_exceeded",
        "429",
        "signature_invalid",
        "API_KEY_INVALID",
    ):
        assert code_of(code) == code


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    found: list[logging.LogRecord] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    listener, root = Listener(), logging.getLogger()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    yield found
    root.setLevel(level)
    root.removeHandler(listener)


@pytest.mark.parametrize(
    "name",
    [
        "botocore.parsers", "botocore.auth", "botocore.endpoint", "botocore.any.new.module", "google_genai.models", "google.auth.transport.requests",
        "azure.identity._internal.get_token_mixin", "azure.core.pipeline.policies.http_logging_policy", "obstore", "mistralai.client", "msal.application",
    ],
)  # fmt: skip
def test_libraries_that_log_bodies_are_heard_from_a_warning_on(
    name: str, records: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`logging.basicConfig(level=DEBUG)` in an application must not put answers and signatures into its log."""
    monkeypatch.setattr(logging.getLogger("google"), "propagate", True)  # google-api-core turns it off once it was imported
    hide_secrets()
    hide_secrets()
    logging.getLogger(name).debug("Response body: %s", QUOTED)
    logging.getLogger(name).info("Request headers: %s", QUOTED)
    logging.getLogger(name).warning("the clock is wrong")
    assert [record.getMessage() for record in records] == ["the clock is wrong"]


def test_the_loggers_that_write_bodies_stay_silent_even_if_an_application_turns_them_on(records: list[logging.LogRecord]) -> None:
    """`boto3.set_stream_logger("")` does."""
    hide_secrets()
    library, parsers = logging.getLogger("botocore"), logging.getLogger("botocore.parsers")
    library.setLevel(logging.DEBUG)
    try:
        hide_secrets()
        parsers.debug("Response body: %s", QUOTED)
        logging.getLogger("botocore.credentials").debug("Found credentials in environment variables.")
    finally:
        library.setLevel(logging.WARNING)
    assert [record.name for record in records] == ["botocore.credentials"]


def test_a_url_that_may_hold_a_secret_is_not_written_and_others_are(
    records: list[logging.LogRecord], caplog: pytest.LogCaptureFixture
) -> None:
    """A resumable upload is open to everyone who has its address, and a proxy of one's own may want a password in it."""
    caplog.set_level(logging.INFO, "httpx2")
    hide_secrets()
    for url in (
        "http://h/v1/x?key=AIza",
        "http://me:secret@h/v1/x",
        "http://h/up?upload_id=ABPn",
        "http://h/v1/models/claude@2025:rawPredict",
    ):
        logging.getLogger("httpx2").info('HTTP Request: %s %s "%s"', "POST", url, "HTTP/1.1 200 OK")
    assert [record.getMessage().split()[3] for record in records] == ["http://h/v1/models/claude@2025:rawPredict"]
