"""What is Bedrock's own: two dialects, signatures, a token that replays, a bucket, a manifest."""

import hashlib
import hmac
import json
from collections.abc import Callable
from threading import Event
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec
import pytest
from botocore.credentials import Credentials

from keld import Account, BedrockAccount, CheckState
from keld.cache import Ttl
from keld.errors import AccessRefused, InvalidJob, ProviderUnreachable
from keld.objects import Bucket
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.base import BatchState, Created, OutcomeUnknown, QueueFull, Refused
from keld.providers.dialects.bedrock_messages import BedrockMessages
from keld.providers.dialects.converse import Body, Converse
from keld.providers.download import Broken
from keld.providers.fault import Fault
from keld.providers.part import Outgoing
from keld.providers.presets.bedrock import PRESET
from keld.providers.provider import connect
from keld.providers.transports.bedrock_auth import Signed, error_in
from keld.providers.word import CLOCK_SKEW
from keld.request import Question
from keld.schema import output_schema
from tests.providers.conftest import Wire
from tests.support.ticket_job import Label, bedrock, bedrock_claude, creates, fault

TEXT = output_schema(str).to_json()
NOVA, CLAUDE = "us.amazon.nova-lite-v1:0", "us.anthropic.claude-haiku-4-5-20251001-v1:0"


@pytest.fixture(autouse=True)
def _small_jobs_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """That Bedrock takes no fewer than 100 records is tested in test_trait and in the emulator's own tests."""
    monkeypatch.setattr("keld.emulator.services.bedrock_input.LEAST_RECORDS", 1)


@pytest.fixture
def wire(open_wire: Callable[..., Wire]) -> Wire:
    return open_wire(bedrock)


def body(fragment: bytes = b'"one"', model: str = NOVA, cache: Ttl | None = None, **question: Any) -> dict[str, Any]:
    asked = Question(**{"system": "Be brief.", "output": TEXT, "max_output_tokens": 64, **question})
    made: dict[str, Any] = json.loads(PRESET.dialect(asked, model).template(asked, model, cache).fill(fragment))
    return made


# --- the body of a request --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "dialect"),
    [
        (CLAUDE, BedrockMessages),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", BedrockMessages),
        ("global.anthropic.claude-sonnet-5", BedrockMessages),
        ("arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-5", BedrockMessages),
        (NOVA, Converse),
        ("openai.gpt-oss-120b-1:0", Converse),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123", Converse),
    ],
)
def test_claude_is_asked_by_its_own_api_and_every_other_model_by_converse(model: str, dialect: type) -> None:
    assert type(PRESET.dialect(Question(system=None, output=TEXT), model)) is dialect


def test_params_of_other_vendors_are_sent_by_their_names_in_converse() -> None:
    """A job may name models of several vendors; Converse refuses fields that it does not know."""
    made = body(
        params={"temperature": 0, "top_p": 0.5, "stop": "END", "guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"}}
    )
    assert made["inferenceConfig"] == {"maxTokens": 64, "temperature": 0, "topP": 0.5, "stopSequences": ["END"]}
    assert set(made) == {"inferenceConfig", "guardrailConfig", "system", "messages"}


def test_a_conversation_has_the_form_of_converse() -> None:
    """System prompts of their own place, content in blocks, roles that alternate: also when a repair adds a message of the same role."""
    said = [
        {"role": "system", "content": "Today is Monday."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "one", "cache_control": {"type": "ephemeral", "ttl": "1h"}}, {"image": {"format": "png"}}],
        },
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    made = body(json.dumps(said).encode())
    assert made["system"] == [{"text": "Be brief."}, {"text": "Today is Monday."}]
    assert made["messages"] == [
        {"role": "user", "content": [{"text": "one"}, {"cachePoint": {"type": "default", "ttl": "1h"}}, {"image": {"format": "png"}}]},
        {"role": "assistant", "content": [{"text": "two"}]},
        {"role": "user", "content": [{"text": "three"}, {"text": "four"}]},
    ]


def test_a_schema_is_sent_as_a_text_and_a_model_without_structured_output_is_named() -> None:
    form = body(output=output_schema(Label).to_json())["outputConfig"]["textFormat"]
    assert json.loads(form["structure"]["jsonSchema"]["schema"])["additionalProperties"] is False
    asked = Question(system=None, output=output_schema(Label).to_json())
    assert "has no structured output on Bedrock" in str(Converse().fit(asked, "meta.llama3-3-70b-instruct-v1:0").obstacle)
    assert "AWS does not list" in str(Converse().fit(asked, NOVA).note)
    assert "has no structured output" in str(BedrockMessages().fit(asked, "anthropic.claude-3-haiku-20240307-v1:0").obstacle)


def test_claude_has_the_version_of_the_api_in_the_place_of_its_model() -> None:
    made = body(model=CLAUDE, output=output_schema(Label).to_json())
    assert (made["anthropic_version"], "model" in made) == ("bedrock-2023-05-31", False)
    assert made["output_config"]["format"]["type"] == "json_schema"


def test_a_batch_is_never_marked_for_the_cache() -> None:
    """That its discount and that of the cache add up is documented nowhere."""
    for model in (NOVA, CLAUDE, "openai.gpt-oss-120b-1:0"):
        assert Lane.BATCH not in PRESET.dialect(Question(system=None, output=TEXT), model).caching(model).ttl
    assert body(cache=Ttl.MINUTES)["system"][-1] == {"cachePoint": {"type": "default"}}


@pytest.mark.parametrize("model", [NOVA, CLAUDE, "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.amazon.nova-pro-v1:0"])
def test_the_flex_tier_is_named_where_the_api_takes_it(model: str) -> None:
    dialect = PRESET.dialect(Question(system=None, output=TEXT), model)
    in_body, in_header = json.loads(dialect.in_lane(b'{"a":1}', Lane.FLEX)), dialect.lane_headers(Lane.FLEX)
    asked = (in_body.get("serviceTier"), in_header.get("x-amzn-bedrock-service-tier"))
    assert asked == ((None, "flex") if model == CLAUDE else ({"type": "flex"}, None))
    assert dialect.lane_headers(Lane.STANDARD) == {}
    assert dialect.path(model) == f"/model/{quote(model, safe='')}/{'invoke' if model == CLAUDE else 'converse'}"


# --- an answer --------------------------------------------------------------------------------------------------------


def answer(**changed: Any) -> Body:
    said = {"output": {"message": {"role": "assistant", "content": [{"reasoningContent": {}}, {"text": "yes"}]}}, "stopReason": "end_turn"}
    return msgspec.json.decode(json.dumps(said | changed), type=Body)


@pytest.mark.parametrize(
    ("stop", "outcome"),
    [
        ("end_turn", Outcome.ANSWERED),
        ("stop_sequence", Outcome.ANSWERED),
        ("max_tokens", Outcome.INVALID),
        ("model_context_window_exceeded", Outcome.INVALID),
        ("malformed_model_output", Outcome.INVALID),
        ("malformed_tool_use", Outcome.INVALID),
        ("tool_use", Outcome.INVALID),
        ("guardrail_intervened", Outcome.REFUSED),
        ("content_filtered", Outcome.REFUSED),
        ("never_seen_before", Outcome.ANSWERED),
    ],
)
def test_the_reason_why_it_stopped_decides_what_an_answer_is_worth(stop: str, outcome: Outcome) -> None:
    reply = Converse().judge("a", 200, answer(stopReason=stop))
    assert (reply.outcome, reply.content) == (outcome, "yes" if outcome is Outcome.ANSWERED else None)


def test_cached_tokens_are_counted_once_and_those_kept_for_an_hour_apart() -> None:
    details = [{"ttl": "1h", "inputTokens": 30}, {"ttl": "5m", "inputTokens": 10}]
    usage = {
        "inputTokens": 5,
        "outputTokens": 7,
        "totalTokens": 72,
        "cacheReadInputTokens": 20,
        "cacheWriteInputTokens": 40,
        "cacheDetails": details,
    }
    reply = Converse().judge("a", 200, answer(usage=usage, serviceTier={"type": "flex"}))
    assert (reply.input_tokens, reply.cached_tokens, reply.cache_write_tokens, reply.cache_write_1h_tokens) == (65, 20, 40, 30)
    assert (reply.output_tokens, reply.tier) == (7, "flex")


# --- who asks ---------------------------------------------------------------------------------------------------------


def test_a_request_is_signed_as_aws_reckons_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reckoned here once more, by the documentation of Signature Version 4: the path of an ARN is encoded twice, the query once."""
    for name, value in {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "session"}.items():
        monkeypatch.setenv(name, value)
    signed = Signed("eu-central-1")
    assert signed.due()
    signed.renew()
    assert not signed.due()
    url = "https://bedrock.eu-central-1.amazonaws.com/model/arn%3Aaws%3Abedrock%2Fx/converse?a=2026-11-29T18%3A00%3A00Z&b=c"
    sent = {"content-type": "application/json", "x-amzn-bedrock-service-tier": "flex", "user-agent": "keld"}
    headers = {name.lower(): value for name, value in signed.headers(Outgoing(method="POST", url=url, headers=sent, body=b"{}")).items()}
    assert "user-agent" not in headers["authorization"], "a proxy may change it"
    assert headers["authorization"] == reckoned(url, b"{}", headers, sent, "eu-central-1", "secret")


def reckoned(url: str, content: bytes, headers: dict[str, str], sent: dict[str, str], region: str, secret: str) -> str:
    """docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, 29 Nov 2026."""
    parts, date = urlsplit(url), headers["x-amz-date"]
    covered = {
        "host": parts.netloc,
        **{k: v for k, v in sent.items() if k != "user-agent"},
        "x-amz-date": date,
        "x-amz-security-token": headers["x-amz-security-token"],
    }
    names = ";".join(sorted(covered))
    lines = "".join(f"{name}:{covered[name]}\n" for name in sorted(covered))
    canonical = "\n".join(["POST", quote(parts.path, safe="/"), parts.query, lines, names, hashlib.sha256(content).hexdigest()])
    scope = f"{date[:8]}/{region}/bedrock/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4" + secret.encode()
    for part in (date[:8], region, "bedrock", "aws4_request", text):
        key = hmac.digest(key, part.encode(), "sha256")
    return f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={names}, Signature={key.hex()}"


def test_without_credentials_nothing_is_sent_and_the_error_says_what_to_set(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    batch = wire.create()
    before = len(wire.emulator.requests())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AccessRefused, match="No credentials of AWS were found for Bedrock in us-east-1"):
        wire.connect().get(batch.id)
    assert len(wire.emulator.requests()) == before


def test_credentials_that_do_not_come_in_time_are_a_fault_for_now() -> None:
    """A machine's metadata service may hang; nothing was sent."""
    signed = Signed("us-east-1", lambda: Event().wait(5), limit_s=0.05)
    with pytest.raises(Fault, match="nothing came within"):
        signed.renew()


def test_an_api_key_of_bedrock_is_sent_as_it_is(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its variable, or from the account's vault; it needs no signature."""
    from keld.providers.transports.bedrock_auth import auth

    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "ABSKexample")
    sent = auth(wire.provider._connection).headers(Outgoing(method="GET", url="https://x", headers={}))
    assert sent == {"authorization": "Bearer ABSKexample"}
    vault = wire.connect(api_key=lambda: "ABSKother")
    assert auth(vault._connection).headers(Outgoing(method="GET", url="https://x", headers={})) == {"authorization": "Bearer ABSKother"}


def test_a_clock_that_is_wrong_is_told_as_such(wire: Wire) -> None:
    """AWS refuses a signature that is five minutes off; "check the key" would send people to the wrong place."""
    said = "Signature expired: 20261129T170000Z is now earlier than 20261129T175500Z (20261129T180000Z - 5 min.)"
    assert error_in({"message": said}, {"x-amzn-errortype": "InvalidSignatureException"})["code"] == CLOCK_SKEW
    fault(wire.emulator, "get", "status", status=403, code="InvalidSignatureException", message=said)
    with pytest.raises(AccessRefused, match="clock of this machine"):
        wire.provider.get("arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abcdefabcdef")


@pytest.mark.parametrize(
    ("given", "headers", "code"),
    [
        (
            {"message": "m"},
            {"x-amzn-errortype": "ValidationException:http://internal.amazon.com/coral/com.amazon.bedrock/"},
            "ValidationException",
        ),
        ({"__type": "com.amazon.bedrock#ThrottlingException", "message": "m"}, {}, "ThrottlingException"),
        ({"__type": "ThrottlingException", "Message": "m"}, {}, "ThrottlingException"),
        ({"message": "m"}, {}, None),
        ({}, {"x-amzn-errortype": "ValidationException"}, None),
    ],
)
def test_the_code_of_an_error_is_read_where_aws_puts_it(given: dict[str, Any], headers: dict[str, str], code: str | None) -> None:
    found = error_in(given, headers)
    assert (found["code"] if found else None) == code


# --- where it is ------------------------------------------------------------------------------------------------------


def account(region: str = "us-east-1", **terms: Any) -> BedrockAccount:
    return BedrockAccount(**{"region": region, "bucket": "s3://b/x", "role": "arn:aws:iam::123456789012:role/r", **terms})


@pytest.mark.parametrize(
    ("made", "host", "runtime"),
    [
        (account(), "https://bedrock.us-east-1.amazonaws.com", "https://bedrock-runtime.us-east-1.amazonaws.com"),
        (account("cn-north-1"), "https://bedrock.cn-north-1.amazonaws.com.cn", "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
        (
            account(base_url="https://bedrock-fips.us-east-1.amazonaws.com"),
            "https://bedrock-fips.us-east-1.amazonaws.com",
            "https://bedrock-runtime-fips.us-east-1.amazonaws.com",
        ),
        (account(base_url="https://gateway.example/aws"), "https://gateway.example", "https://gateway.example/aws"),
    ],
)
def test_a_region_has_two_addresses(made: BedrockAccount, host: str, runtime: str) -> None:
    provider = connect("bedrock", made)
    assert provider.host == f"{host}/{made.region}/123456789012"
    assert provider._url("/model/m/converse") == f"{runtime}/model/m/converse"


def test_two_regions_and_two_aws_accounts_are_different_hosts_for_the_ledger() -> None:
    same = {"base_url": "https://gateway.example"}
    hosts = {
        connect("b", made).host
        for made in (account(**same), account("eu-west-1", **same), account(role="arn:aws:iam::210987654321:role/r", **same))
    }
    assert len(hosts) == 3


def test_an_account_without_its_bucket_says_which_variable_is_missing() -> None:
    with pytest.raises(InvalidJob, match=r"bucket= \(or KELD_BEDROCK_BUCKET\)"):
        connect("bedrock", BedrockAccount(region="us-east-1", role="arn:aws:iam::123456789012:role/r"))
    with pytest.raises(InvalidJob, match="needs the type BedrockAccount"):
        connect("bedrock", Account(kind="bedrock"))


# --- a job ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("peer", "kind"), [(bedrock, "Converse"), (bedrock_claude, "InvokeModel")])
def test_a_job_says_by_which_call_its_model_is_asked(open_wire: Callable[..., Wire], peer: Any, kind: str) -> None:
    wire = open_wire(peer)
    assert len(wire.replies(wire.ended())) == 3
    assert {job["modelInvocationType"] for job in wire.emulator.batches()} == {kind}


def test_the_same_create_names_the_same_job(wire: Wire) -> None:
    submission = wire.submission()
    first, second = wire.provider.create(submission), wire.provider.create(submission)
    assert isinstance(first, Created)
    assert isinstance(second, Created)
    assert first.batch.id == second.batch.id
    wire.emulator.advance(60)
    assert len(wire.emulator.bill()) == 3


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (400, "ServiceQuotaExceededException", QueueFull),
        (429, "ThrottlingException", QueueFull),
        (400, "ThrottlingException", QueueFull),
        (400, "ConflictException", OutcomeUnknown),
        (500, "InternalServerException", OutcomeUnknown),
        (400, "ValidationException", Refused),
        (400, "ExpiredTokenException", Refused),
    ],
)
def test_a_create_that_is_refused_is_judged_by_its_code(wire: Wire, status: int, code: str, outcome: type) -> None:
    submission = wire.submission()
    fault(wire.emulator, "create", "status", status=status, code=code, match={"provider": "bedrock"})
    found = wire.provider.create(submission)
    assert isinstance(found, outcome)
    if isinstance(found, Refused):
        assert found.access == (code == "ExpiredTokenException")
    assert len(creates(wire.emulator, bedrock)) == 1


@pytest.mark.parametrize("reply", ["{}", '{"jobArn": "none"}', '{"jobArn": 5}', "[]"])
def test_a_reply_without_a_job_is_of_unknown_outcome(wire: Wire, reply: str) -> None:
    submission = wire.submission()
    fault(wire.emulator, "create", "garbage", body=reply)
    assert isinstance(wire.provider.create(submission), OutcomeUnknown)


def test_a_job_is_found_by_its_token_however_many_there_are(wire: Wire) -> None:
    """The name only narrows the search: another job may contain it."""
    made = [wire.create(nonce=f"nonce{n:05d}") for n in range(3)]
    found = wire.provider.find("nonce00001-1", made[0].created_at)
    assert [batch.id for batch in found] == [made[1].id]
    assert wire.provider.find("nonce00009-1", made[0].created_at) == []


def test_a_search_that_gives_the_same_page_again_proves_nothing(wire: Wire) -> None:
    """Taken for the end of the list, the job would be missing in it, and be sent and paid again."""
    fault(wire.emulator, "list", "garbage", body='{"invocationJobSummaries": [], "nextToken": "t"}', times=None)
    with pytest.raises(ProviderUnreachable):
        wire.provider.find("nonce00001-1", wire.emulator.now())


def test_a_job_that_was_stopped_may_have_an_output_though_its_counts_are_missing(wire: Wire) -> None:
    """Without its output its rows would be asked, and paid, again; a count of zero says that there is none."""
    batch = wire.create()
    job = {
        "jobArn": batch.id, "status": "Stopped", "submitTime": "2026-11-29T10:00:00Z", "clientRequestToken": batch.key,
        "inputDataConfig": {"s3InputDataConfig": {"s3Uri": batch.input_ref}}, "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://b/out/"}},
    }  # fmt: skip
    fault(wire.emulator, "get", "garbage", body=json.dumps(job), times=1)
    found = wire.look(batch)
    assert (found.state, found.done, len(found.result_refs)) == (BatchState.CANCELLED, None, 1)
    for none in ({"processedRecordCount": 0}, {"status": "Expired"}, {"status": "Failed"}):
        wire.emulator.clear_faults()
        fault(wire.emulator, "get", "garbage", body=json.dumps(job | none), times=1)
        assert wire.look(batch).result_refs == ()


def test_an_object_that_is_replaced_while_it_is_opened_is_not_read_on(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning of the one and the end of the other would be a row's wrong answer."""
    batch = wire.ended(5)
    (file,) = wire.provider._batches.results(batch)
    store, name = wire.emulator._live.store.objects, urlsplit(file.id).path[1:]
    with wire.provider._batches.fetch(batch, file, 0, "") as piece:
        validator = piece.validator
    find = Bucket.find

    def replaced(self: Bucket, asked: str) -> Any:
        found = find(self, asked)
        store.write("s3", "keld-emulator", name, store.read("s3", "keld-emulator", name)[::-1])
        return found

    monkeypatch.setattr(Bucket, "find", replaced)
    with wire.provider._batches.fetch(batch, file, 10, validator) as piece, pytest.raises(Broken, match="changed"):
        next(piece.chunks)


def test_an_input_has_a_name_of_its_own_each_time(wire: Wire) -> None:
    """A create that arrives late must not find the input of a later one."""
    path = wire.file(["one"])
    refs = {wire.provider.upload(path, "a" * 10) for _ in range(3)}
    assert len(refs) == 3
    for ref in refs:
        assert str(ref).startswith("s3://keld-emulator/bedrock/in/aaaaaaaaaa-")
        wire.provider.delete_input(str(ref))
        wire.provider.delete_input(str(ref))
    assert wire.emulator._live.store.objects.listed("s3", "keld-emulator", "bedrock/in/") == []


def test_a_removed_input_stops_a_create_that_arrives_later(wire: Wire) -> None:
    submission = wire.submission()
    wire.provider.delete_input(str(submission.input_ref))
    outcome = wire.provider.create(submission)
    assert isinstance(outcome, Created)
    wire.emulator.advance(60)
    failed = wire.look(outcome.batch)
    assert (failed.state, wire.emulator.bill()) == (BatchState.FAILED, [])
    assert "does not exist" in failed.errors[0][1]


def test_an_output_is_whole_when_it_has_as_many_lines_as_its_manifest(wire: Wire) -> None:
    """An output that is still written is no lost row."""
    batch = wire.ended(5)
    (file,) = wire.provider._batches.results(batch)
    assert file.lines == 5
    store = wire.emulator._live.store.objects
    name = urlsplit(file.id).path[1:]
    whole = store.read("s3", "keld-emulator", name)
    store.write("s3", "keld-emulator", name, b"\n".join(whole.split(b"\n")[:3]) + b"\n")
    part, *_ = wire.provider.download(batch, wire.into, 1 << 30)
    assert part.read_bytes().count(b"\n") == 3
    store.write("s3", "keld-emulator", name, whole)
    assert len(wire.replies(batch)) == 5


def test_a_download_goes_on_where_it_broke_if_it_is_the_same_object(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process, too; an object that has changed is read from its beginning."""
    monkeypatch.setattr("keld.objects._PIECE_BYTES", 2_000)
    monkeypatch.setattr("keld.objects._RETRIES", 0)
    batch = wire.ended(20)
    wire.provider = wire.connect()
    out = {"path": ".jsonl.out"}
    fault(wire.emulator, "download", "status", status=500, skip=2, times=8, match=out)
    with pytest.raises(ProviderUnreachable, match="bytes are kept"):
        wire.provider.download(batch, wire.into, 1 << 30)
    wire.emulator.clear_faults()
    before = len(wire.emulator.requests())
    wire.provider = wire.connect()
    assert len(wire.replies(batch)) == 20
    ranges = [call.range for call in wire.emulator.requests()[before:] if call.method == "GET" and call.path.endswith(".jsonl.out")]
    assert ranges[0] != "bytes=0-1999", "not from its beginning"
    assert unquote(batch.id).startswith("arn:aws:bedrock:")


def test_a_bucket_that_may_not_be_read_is_told_by_its_name(open_emulator: Callable[..., Any], tmp_path: Any) -> None:
    """The role of the job may read it, and we may not: a person must act."""
    wire = Wire(bedrock, open_emulator(), tmp_path)
    batch = wire.ended()
    fault(wire.emulator, "download", "status", status=403, times=None)
    with pytest.raises(AccessRefused):
        wire.provider.download(batch, wire.into, 1 << 30)


def test_a_bucket_in_another_region_is_told_and_stops_the_account(wire: Wire) -> None:
    wire.emulator.faults({"rules": [{"at": "upload", "do": "status", "status": 301, "times": None, "match": {"provider": "s3"}}]})
    with pytest.raises(
        AccessRefused, match=r"The bucket of bedrock is in another region than the account: .* Correct bucket= or region=\."
    ):
        wire.provider.upload(wire.file(["one"]), "a" * 10 + "-1")
    checks = {check.what: check for check in wire.provider.examine(None, wire.emulator.now)}
    assert "is in another region than the one that is set" in checks["bucket"].finding


def test_the_bucket_is_opened_with_the_credentials_of_a_profile(wire: Wire, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """obstore knows neither profiles nor SSO; botocore does, and finds the same ones for the bucket as for the jobs."""
    batch = wire.ended()
    (tmp_path / "credentials").write_text(
        "[team]\naws_access_key_id = AKIATEAM\naws_secret_access_key = secret\naws_session_token = session\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    wire.provider = wire.connect()
    assert len(wire.replies(batch)) == 3
    opened_with = wire.provider._batches._objects._options()
    assert opened_with.items() >= {"access_key_id": "AKIATEAM", "secret_access_key": "secret", "session_token": "session"}.items()
    checks = {check.what: check for check in wire.provider.examine(None, wire.emulator.now)}
    assert checks["bucket"].state is CheckState.OK, "the doctor opens it as the transport does"


def test_the_bucket_is_opened_with_the_accounts_own_credentials(wire: Wire) -> None:
    """Those of the environment may be another team's."""
    wire.provider = wire.connect(credentials=lambda: Credentials("AKIAOWN", "secret"))
    assert len(wire.replies(wire.ended())) == 3
    assert wire.provider._batches._objects._options()["access_key_id"] == "AKIAOWN"
