"""Google page: a page of a list as Google's APIs give it, by `pageSize` and `pageToken`.

Below the services of Gemini and Vertex.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..batch import Batch
from ..error import ApiError
from ..page import token_page
from ..store import Store


async def google_page(
    request: Request,
    store: Store,
    listed: list[Batch],
    look: Callable[[Batch], Awaitable[dict[str, Any]]],
    *,
    name: str,
    most: int,
    refused: ApiError,
) -> Response:
    """The page that a request asks for, its batches under `name`; an empty list has no such field, and the last page no token.

    Args:
        look: what is shown of a batch.
        most: batches on a page.
        refused: raised for a size or a token that is none.
    """
    size, token = request.query_params.get("pageSize") or str(most), request.query_params.get("pageToken")
    if not size.isdigit():
        raise refused
    try:
        shown, following = token_page(listed, lambda batch: batch.id, limit=min(int(size) or most, most), token=token or None)
    except (ValueError, ApiError) as error:
        raise refused from error
    await store.catch_up(shown)
    found: dict[str, Any] = {name: [await look(batch) for batch in shown]} if shown else {}
    return JSONResponse(found | ({"nextPageToken": following} if following else {}))
