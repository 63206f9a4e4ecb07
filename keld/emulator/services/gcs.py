"""GCS: Google Cloud Storage by its XML API, `<emulator>/gcs/<bucket>/<object>`, which obstore speaks; the JSON API is `gcs_json`.

As in docs.cloud.google.com/storage/docs/xml-api, Nov 2026: S3's calls, with `x-goog-if-generation-match` as the condition of a write.
No key is needed: an emulator with keys of its own takes one as a bearer token.
"""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from ..answer import Answerer
from ..bucket import Check, StoredObject
from ..error import ApiError
from ..service import Endpoint, Service
from ..store import Store
from .object_xml import Words, XmlObjects, refusal


class Gcs(Service):
    kind = "gcs"
    title = "Google Cloud Storage"
    base = "/gcs"
    owns = "/gcs"
    request_id_header = "x-guploader-uploadid"

    def __init__(self, store: Store, answerer: Answerer) -> None:
        super().__init__(store, answerer)
        words = Words(prefix="x-goog-", condition=condition, version=lambda found: {"x-goog-generation": str(found.generation)})
        self.objects = XmlObjects(store=store, kind=self.kind, scheme="gs", base=self.base, words=words)

    def routes(self) -> list[Endpoint]:
        return self.objects.routes()

    def env(self, base_url: str, api_key: str) -> dict[str, str]:
        # What obstore takes as a key that needs no token, and that says where the store is (measured Nov 2026: a base URL alone asks the
        # machine's metadata server for a token at each write).
        key = {"gcs_base_url": base_url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(key)}

    def refusal(self, error: ApiError) -> Response:
        return refusal(error)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return {"Code": error.code, "Message": error.message}

    def key_refused(self, key: str) -> ApiError:
        return ApiError(status=401, code="AuthenticationRequired", message="Authentication required.")


def condition(headers: Mapping[str, str]) -> Check:
    """The condition of a write: `x-goog-if-generation-match`, where 0 means that there is no object."""
    wanted = headers.get("x-goog-if-generation-match")
    return generation_is(None if wanted is None else int(wanted))


def generation_is(wanted: int | None) -> Check:
    """Passes if the object has this generation; 0: if there is none; None: always."""

    def check(now: StoredObject | None) -> None:
        if wanted is not None and wanted != (now.generation if now else 0):
            message = "At least one of the pre-conditions you specified did not hold."
            raise ApiError(status=412, code="PreconditionFailed", message=message)

    return check
