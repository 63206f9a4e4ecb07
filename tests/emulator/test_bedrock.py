"""The Bedrock service, through boto3; every reply is held against botocore's own model of the service."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import boto3
import jsonschema
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.model import OperationModel, Shape
from botocore.validate import ParamValidator

from keld.emulator import Emulator
from tests.emulator.conftest import PLAIN

NOVA, CLAUDE, OSS = "us.amazon.nova-lite-v1:0", "eu.anthropic.claude-haiku-4-5-20251001-v1:0", "openai.gpt-oss-120b-1:0"
ROLE = "arn:aws:iam::123456789012:role/batch"


@dataclass
class Aws:
    """An emulator with clients of boto3, each of one attempt."""

    emulator: Emulator
    jobs: Any
    runtime: Any
    s3: Any

    def put(self, rows: int = 100, name: str = "in/rows.jsonl", *, ids: Callable[[int], str] = lambda n: f"row{n:08d}", **body: Any) -> str:
        lines = [json.dumps({"recordId": ids(n), "modelInput": {**converse(f"Ticket {n}"), **body}}) for n in range(rows)]
        self.s3.put_object(Bucket="tickets", Key=name, Body="\n".join(lines).encode())
        return f"s3://tickets/{name}"

    def create(self, uri: str | None = None, token: str = "aaaaaaaaaa-1", **terms: Any) -> str:
        asked = {
            "jobName": f"keld-{token}",
            "clientRequestToken": token,
            "roleArn": ROLE,
            "modelId": NOVA,
            "modelInvocationType": "Converse",
            "inputDataConfig": {"s3InputDataConfig": {"s3Uri": uri or self.put(), "s3InputFormat": "JSONL"}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://tickets/out/"}},
        }
        return str(self.jobs.create_model_invocation_job(**asked | terms)["jobArn"])

    def get(self, arn: str) -> Any:
        return self.jobs.get_model_invocation_job(jobIdentifier=arn)

    def output(self, arn: str) -> list[dict[str, Any]]:
        self.get(arn)  # as a client does, to know that it has ended
        return [json.loads(line) for line in self.object(arn, "rows.jsonl.out").splitlines()]

    def object(self, arn: str, name: str) -> bytes:
        key = f"out/{arn.rpartition('/')[2]}/{name}"
        return bytes(self.s3.get_object(Bucket="tickets", Key=key)["Body"].read())

    def fault(self, at: str, do: str, **more: Any) -> None:
        self.emulator.faults({"rules": [{"at": at, "do": do, "match": {"provider": "bedrock"}, **more}]})


def converse(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"text": text}]}], "inferenceConfig": {"maxTokens": 256}}


def hold(http_response: Any, parsed: Any, model: OperationModel, **_: Any) -> None:
    """Holds a reply against the model of its operation."""
    if http_response.status_code >= 300:
        codes = {shape.name for shape in model.error_shapes} | {"MissingAuthenticationTokenException", "UnrecognizedClientException"}
        assert parsed["Error"]["Code"] in codes, parsed
        return
    assert model.output_shape is not None
    report = ParamValidator().validate({k: v for k, v in parsed.items() if k != "ResponseMetadata"}, model.output_shape)
    assert not report.has_errors(), report.generate_report()
    if model.name != "InvokeModel":  # whose body is the model's own
        _hold(json.loads(http_response.content), model.output_shape, model.name)


def _hold(value: Any, shape: Any, where: str) -> None:
    match shape.type_name:
        case "structure":
            unknown = set(value) - {member.serialization.get("name", name) for name, member in shape.members.items()}
            assert not unknown, f"{where} has {unknown}, which the model of the service does not know"
            assert set(shape.required_members) <= set(value), f"{where} lacks {set(shape.required_members) - set(value)}"
            for name, inner in value.items():
                _hold(inner, shape.members[name], f"{where}.{name}")
        case "list":
            for inner in value:
                _hold(inner, shape.member, f"{where}[]")
        case "string":
            _hold_text(value, shape, where)
        case _:
            pass


def _hold_text(value: str, shape: Shape, where: str) -> None:
    pattern, allowed = shape.metadata.get("pattern"), shape.metadata.get("enum")
    assert pattern is None or re.fullmatch(pattern, value), f"{where} is {value!r}, not {pattern}"
    assert not allowed or value in allowed, f"{where} is {value!r}, not one of {allowed}"


SESSION = boto3.session.Session()  # one for all, since it reads the models of the services


@pytest.fixture
def open_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Aws]]:
    emulators: list[Emulator] = []

    def start(**settings: Any) -> Aws:
        emulator = Emulator(**{"frozen": True, **settings}).start()
        emulators.append(emulator)
        for name, value in emulator.env().items():
            monkeypatch.setenv(name, value)
        key = {"aws_access_key_id": emulator.api_key, "aws_secret_access_key": "not-checked", "region_name": "us-east-1"}
        # Without its own checks, so that the emulator's are seen.
        once = Config(retries={"total_max_attempts": 1, "mode": "standard"}, parameter_validation=False)
        jobs, runtime, s3 = (SESSION.client(service, config=once, **key) for service in ("bedrock", "bedrock-runtime", "s3"))  # type: ignore[call-overload]
        for client in (jobs, runtime):
            client.meta.events.register("after-call", hold)
        return Aws(emulator, jobs, runtime, s3)

    yield start
    for emulator in emulators:
        emulator.stop()


@pytest.fixture
def aws(open_aws: Callable[..., Aws]) -> Aws:
    """Jobs take 100 s on a frozen clock, and 10 of it to be validated."""
    return open_aws(latency_s=90, validate_s=10)


def refusal(call: Callable[[], Any]) -> tuple[int, str, str]:
    """Status, code and message of a call that is refused."""
    with pytest.raises(ClientError) as refused:
        call()
    response = refused.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"], response["Error"]["Message"]


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_a_job_goes_its_way_and_leaves_an_output_and_a_manifest(aws: Aws) -> None:
    arn = aws.create()
    seen = [aws.get(arn)["status"]]
    for span in (5, 5, 30, 60):
        aws.emulator.advance(span)
        seen.append(aws.get(arn)["status"])
    assert seen == ["Submitted", "Validating", "Scheduled", "InProgress", "Completed"]
    lines = aws.output(arn)
    assert {line["recordId"] for line in lines} == {f"row{n:08d}" for n in range(100)}
    assert [line["recordId"] for line in lines] != sorted(line["recordId"] for line in lines), "in no order"
    assert all(line["modelInput"]["messages"] and line["modelOutput"]["stopReason"] == "end_turn" for line in lines)
    manifest = json.loads(aws.object(arn, "manifest.json.out"))
    counts = {name: manifest[f"{name}RecordCount"] for name in ("total", "processed", "success", "error")}
    assert counts == {"total": 100, "processed": 100, "success": 100, "error": 0}
    assert manifest["outputTokenCount"] == sum(line["modelOutput"]["usage"]["outputTokens"] for line in lines)
    assert {(paid.provider, paid.lane, paid.model) for paid in aws.emulator.bill()} == {("bedrock", "batch", NOVA)}
    assert len(aws.emulator.bill()) == 100


@pytest.mark.parametrize(
    ("rows", "more", "words"),
    [
        (99, {}, "contains less records (99) than the required minimum of: 100"),
        (100, {"ids": lambda n: "same"}, "more than once"),
        (100, {"ids": lambda n: f"row-{n}"}, "not alphanumeric"),
    ],
)
def test_an_input_that_breaks_a_rule_fails_the_job_after_its_create_was_answered(aws: Aws, rows: int, more: Any, words: str) -> None:
    arn = aws.create(aws.put(rows, **more))
    assert aws.get(arn)["status"] == "Submitted"
    aws.emulator.advance(10)
    failed = aws.get(arn)
    assert (failed["status"], aws.emulator.bill()) == ("Failed", [])
    assert words in failed["message"]


def test_a_job_whose_input_is_not_there_or_was_removed_in_time_fails_and_is_not_paid(aws: Aws) -> None:
    """So a removed input stops a create that arrives late."""
    missing, removed = aws.create("s3://tickets/in/none.jsonl"), aws.create(aws.put(name="in/other.jsonl"), token="bbbbbbbbbb-1")
    aws.s3.delete_object(Bucket="tickets", Key="in/other.jsonl")
    aws.emulator.advance(100)
    assert {aws.get(arn)["status"] for arn in (missing, removed)} == {"Failed"}
    assert aws.emulator.bill() == []


def test_a_create_with_the_same_token_makes_no_second_job_for_ten_minutes(aws: Aws) -> None:
    uri = aws.put()
    first = aws.create(uri)
    aws.emulator.advance(599)
    assert aws.create(uri) == first
    assert refusal(lambda: aws.create(uri, modelId=OSS))[:2] == (400, "ConflictException")
    aws.emulator.advance(1)
    assert aws.create(uri) != first
    aws.emulator.advance(100)
    assert len(aws.emulator.bill()) == 200


@pytest.mark.parametrize("late", [True, False])
def test_a_create_that_is_sent_again_while_the_first_is_on_its_way_makes_one_job(aws: Aws, late: bool) -> None:
    uri = aws.put()
    aws.fault("create", "late_landing", after_s=60) if late else aws.fault("create", "drop_after")
    with pytest.raises(Exception, match="Connection"):
        aws.create(uri)
    arn = aws.create(uri)
    aws.emulator.advance(300)
    listed = aws.jobs.list_model_invocation_jobs()["invocationJobSummaries"]
    assert [job["jobArn"] for job in listed] == [arn]
    assert len(aws.emulator.bill()) == 100


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ({"clientRequestToken": "has_underscore"}, "clientRequestToken"),
        ({"jobName": "x" * 64}, "jobName"),
        ({"roleArn": "role/batch"}, "roleArn"),
        ({"timeoutDurationInHours": 23}, "timeoutDurationInHours"),
        ({"inputDataConfig": {"s3InputDataConfig": {"s3Uri": "https://tickets/in"}}}, "s3Uri"),
        ({"modelId": "does-not-exist.model-v1:0"}, "model identifier is invalid"),
    ],
)
def test_a_wrong_parameter_is_refused_in_the_words_of_the_service(aws: Aws, terms: dict[str, Any], named: str) -> None:
    uri = aws.put()
    status, code, message = refusal(lambda: aws.create(uri, **terms))
    assert (status, code) == (400, "ValidationException")
    assert named in message


def test_more_jobs_than_the_quota_are_refused_with_400(aws: Aws) -> None:
    uri = aws.put()
    for n in range(100):
        aws.create(uri, token=f"token{n}")
    assert refusal(lambda: aws.create(uri))[:2] == (400, "ServiceQuotaExceededException")


def test_a_stopped_job_leaves_what_it_did_and_bills_no_more(aws: Aws) -> None:
    arn = aws.create()
    aws.emulator.advance(10 + 45)
    aws.jobs.stop_model_invocation_job(jobIdentifier=arn)
    assert aws.get(arn)["status"] == "Stopping"
    aws.emulator.advance(9)
    stopped = aws.get(arn)
    assert (stopped["status"], stopped["processedRecordCount"]) == ("Stopped", 60)
    assert len(aws.output(arn)) == len(aws.emulator.bill()) == 60, "the others have no line"
    assert refusal(lambda: aws.jobs.stop_model_invocation_job(jobIdentifier=arn))[:2] == (400, "ConflictException")


@pytest.mark.parametrize(("done", "status", "paid"), [(0.3, "PartiallyCompleted", 30), (0.0, "Expired", 0)])
def test_a_job_whose_time_is_over_is_partially_completed_or_expired(aws: Aws, done: float, status: str, paid: int) -> None:
    aws.fault("life", "expire", done=done)
    arn = aws.create(timeoutDurationInHours=24)
    aws.emulator.advance(timedelta(hours=24))
    assert (aws.get(arn)["status"], len(aws.emulator.bill())) == (status, paid)
    if paid:
        assert len(aws.output(arn)) == paid


def test_a_row_that_is_refused_has_an_error_in_the_place_of_its_output(aws: Aws) -> None:
    """A `modelInput` is not looked at before the job runs."""
    arn = aws.create(aws.put(temperature=0))
    aws.emulator.advance(100)
    assert aws.get(arn)["errorRecordCount"] == 100
    (error,) = {json.dumps(line["error"]) for line in aws.output(arn)}
    assert json.loads(error)["errorCode"] == 400
    assert "extraneous key [temperature] is not permitted" in error
    assert aws.emulator.bill() == []


def test_the_list_is_paged_sorted_and_filtered(aws: Aws) -> None:
    uri = aws.put()
    made = []
    for n in range(5):
        made.append(aws.create(uri, token=f"list{n}"))
        aws.emulator.advance(10)
    pages = aws.jobs.get_paginator("list_model_invocation_jobs")

    def arns(**query: Any) -> list[str]:
        return [
            job["jobArn"] for page in pages.paginate(PaginationConfig={"PageSize": 2}, **query) for job in page["invocationJobSummaries"]
        ]

    assert arns(sortBy="CreationTime", sortOrder="Descending") == made[::-1]
    assert arns(sortBy="CreationTime", sortOrder="Ascending") == made
    assert arns(nameContains="keld-list3") == [made[3]]
    assert arns(submitTimeAfter=aws.emulator.now() - timedelta(seconds=25)) == made[:2:-1]
    assert arns(statusEquals="Failed") == []
    assert refusal(lambda: aws.jobs.list_model_invocation_jobs(nextToken="nonsense"))[1] == "ValidationException"


def test_claude_answers_jobs_of_both_types(aws: Aws) -> None:
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}
    lines = [json.dumps({"recordId": f"r{n}", "modelInput": body}) for n in range(100)]
    aws.s3.put_object(Bucket="tickets", Key="in/rows.jsonl", Body="\n".join(lines).encode())
    arn = aws.create("s3://tickets/in/rows.jsonl", modelId=CLAUDE, modelInvocationType="InvokeModel")
    aws.emulator.advance(100)
    assert {line["modelOutput"]["type"] for line in aws.output(arn)} == {"message"}
    arn = aws.create(token="cccccccccc-1", modelId=CLAUDE)
    aws.emulator.advance(100)
    assert {line["modelOutput"]["stopReason"] for line in aws.output(arn)} == {"end_turn"}


# --- at once ----------------------------------------------------------------------------------------------------------


def test_converse_answers_with_a_schema(aws: Aws) -> None:
    form = {"type": "json_schema", "structure": {"jsonSchema": {"name": "label", "schema": json.dumps(PLAIN)}}}
    said = aws.runtime.converse(modelId=OSS, **converse("Hello"), outputConfig={"textFormat": form})
    jsonschema.validate(json.loads(said["output"]["message"]["content"][0]["text"]), PLAIN)
    assert said["usage"]["totalTokens"] == said["usage"]["inputTokens"] + said["usage"]["outputTokens"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": []}, "must start with a user message"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}] * 2}, "must alternate"),
        ({"messages": [{"role": "user", "content": [{"text": " "}]}]}, "is blank"),
        ({"inferenceConfig": {"maxTokens": 0}}, "inferenceConfig.maxTokens"),
        ({"inferenceConfig": {"temperature": 1.5}}, "less than or equal to 1"),
        ({"modelId": "does-not-exist"}, "The provided model identifier is invalid"),
        (
            {"outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": '{"type":"object"}'}}}}},
            "must be explicitly set to false",
        ),
    ],
)
def test_converse_refuses_what_the_service_refuses(aws: Aws, body: dict[str, Any], words: str) -> None:
    status, code, message = refusal(lambda: aws.runtime.converse(**{"modelId": CLAUDE, **converse("Hello"), **body}))
    assert (status, code) == (400, "ValidationException")
    assert words in message


def test_a_cache_point_is_written_once_and_read_later(aws: Aws) -> None:
    system = [{"text": "x" * 20_000}, {"cachePoint": {"type": "default"}}]
    first, second = (aws.runtime.converse(modelId=NOVA, system=system, **converse(text))["usage"] for text in ("one", "two"))
    assert (first["cacheWriteInputTokens"], first["cacheReadInputTokens"]) == (5_000, 0)
    assert (second["cacheWriteInputTokens"], second["cacheReadInputTokens"]) == (0, 5_000)
    assert first["cacheDetails"] == [{"ttl": "5m", "inputTokens": 5_000}]
    assert refusal(lambda: aws.runtime.converse(modelId=OSS, system=system, **converse("one")))[:2] == (403, "AccessDeniedException")


def test_the_flex_tier_is_asked_for_in_the_body_or_in_a_header(aws: Aws) -> None:
    said = aws.runtime.converse(modelId=OSS, **converse("Hello"), serviceTier={"type": "flex"})
    assert said["serviceTier"] == {"type": "flex"}
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}
    invoked = aws.runtime.invoke_model(modelId=CLAUDE, body=json.dumps(body), serviceTier="flex")
    assert (invoked["serviceTier"], json.loads(invoked["body"].read())["stop_reason"]) == ("flex", "end_turn")
    assert [paid.lane for paid in aws.emulator.bill()] == ["flex", "flex"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": CLAUDE}, "model: Extra inputs"),
        ({"anthropic_version": None}, "anthropic_version: Field required"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_invoke_model_takes_claudes_body_with_a_version_and_without_a_model(aws: Aws, change: dict[str, Any], words: str) -> None:
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}], **change}
    status, code, message = refusal(lambda: aws.runtime.invoke_model(modelId=CLAUDE, body=json.dumps(body)))
    assert (status, code) == (400, "ValidationException")
    assert words in message


@pytest.mark.parametrize(
    ("status", "given", "code"),
    [(429, None, "ThrottlingException"), (429, "ModelNotReadyException", "ModelNotReadyException"), (424, None, "ModelErrorException")],
)
def test_a_planned_fault_has_the_code_of_the_service(aws: Aws, status: int, given: str | None, code: str) -> None:
    aws.fault("realtime", "status", status=status, **({"code": given} if given else {}))
    assert refusal(lambda: aws.runtime.converse(modelId=OSS, **converse("Hello")))[:2] == (status, code)


def test_an_access_key_that_is_not_accepted_is_refused(open_aws: Callable[..., Aws]) -> None:
    aws = open_aws(api_keys=["AKIAGOOD"])
    assert aws.jobs.list_model_invocation_jobs()["invocationJobSummaries"] == []
    other = SESSION.client("bedrock", region_name="us-east-1", aws_access_key_id="AKIABAD", aws_secret_access_key="x")
    assert refusal(other.list_model_invocation_jobs)[:2] == (403, "UnrecognizedClientException")
