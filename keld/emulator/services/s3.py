"""S3: s3.amazonaws.com by paths: `<emulator>/s3/<bucket>/<key>`; a bucket is there as soon as it is named.

As in docs.aws.amazon.com/AmazonS3/latest/API, Nov 2026: put, read with ranges, delete one or many, list version 2, parts, copy; `If-None-Match: *`
and `If-Match` on writes.  Signatures are not checked; the access key is the API key, by which an emulator with keys of its own knows its callers.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..answer import Answerer
from ..bucket import Check, StoredObject
from ..error import ApiError
from ..service import Endpoint, Service
from ..store import Store
from .object_xml import Words, XmlObjects, refusal

REGION = "us-east-1"


class S3(Service):
    kind = "s3"
    title = "S3"
    base = "/s3"
    owns = "/s3"
    request_id_header = "x-amz-request-id"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        words = Words(prefix="x-amz-", condition=condition, version=lambda found: {})
        self.objects = XmlObjects(store=store, kind=self.kind, scheme="s3", base=self.base, words=words)

    def routes(self) -> list[Endpoint]:
        return self.objects.routes()

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": base_url,
            "AWS_ACCESS_KEY_ID": api_key,
            "AWS_SECRET_ACCESS_KEY": "not-checked",  # a signature is made with it, which nobody checks
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
        }

    def key_of(self, request: Request) -> str:
        return access_key_of(request)

    def refusal(self, error: ApiError) -> Response:
        return refusal(error)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return {"Code": error.code, "Message": error.message}

    def key_refused(self, key: str) -> ApiError:
        message = "The AWS Access Key Id you provided does not exist in our records."
        return ApiError(status=403, code="InvalidAccessKeyId", message=message)


def access_key_of(request: Request) -> str:
    """The access key of a request signed by version 4; empty where there is none."""
    _, _, credential = request.headers.get("authorization", "").partition("Credential=")
    return credential.partition(",")[0].rsplit("/", 4)[0]  # key/day/region/service/aws4_request


def condition(headers: Mapping[str, str]) -> Check:
    """The condition of a write: `If-None-Match: *`, or `If-Match` and an ETag."""
    absent, wanted = headers.get("if-none-match"), headers.get("if-match")

    def check(now: StoredObject | None) -> None:
        failed = ApiError(status=412, code="PreconditionFailed", message="At least one of the pre-conditions you specified did not hold")
        if absent == "*" and now is not None:
            raise failed
        if wanted and now is None:
            raise ApiError(status=404, code="NoSuchKey", message="The specified key does not exist.")
        if wanted and now is not None and wanted.strip('"') not in ("*", now.etag):
            raise failed

    return check
