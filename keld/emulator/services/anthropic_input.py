"""Anthropic input: the body of a batch's create, which has all its requests; checked before the create is answered."""

import mmap
import re
from array import array
from pathlib import Path

import msgspec
from starlette.requests import ClientDisconnect, Request

from ..error import ApiError
from ..row import Rows

# https://platform.claude.com/docs/en/build-with-claude/batch-processing, Nov 2026.
MAX_REQUESTS = 100_000
MAX_BATCH_BYTES = 256_000_000
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)


class Item(msgspec.Struct, gc=False):
    custom_id: str
    params: msgspec.Raw


class Create(msgspec.Struct):
    requests: list[Item]


async def receive(request: Request, path: Path) -> Path:
    """The body, on disk: it may have 256 MB."""
    size = 0
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size <= MAX_BATCH_BYTES:
                    file.write(chunk)
    except ClientDisconnect:
        path.unlink()
        raise
    if size > MAX_BATCH_BYTES:
        path.unlink()
        raise ApiError(status=413, message="Request exceeds the maximum size")
    return path


def rows_of(body: Path, path: Path) -> Rows:
    """The requests of a create's body, each a row of a file.

    Raises:
        ApiError: the body is not a list of requests with good, unique ids.
    """
    try:
        items = _items(body)
        starts, ends = array("q"), array("q")
        with path.open("wb", buffering=1 << 20) as file:
            end = 0
            for item in items:
                written = file.write(b'{"custom_id":"%b","params":%b}' % (item.custom_id.encode(), item.params))
                starts.append(end)
                end += written
                ends.append(end)
    finally:
        body.unlink()
    return Rows(path, starts, ends)


def _items(body: Path) -> list[Item]:
    if body.stat().st_size == 0:
        raise ApiError(status=400, message="requests: Field required")
    with body.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        # The params stay views into the mapped file; only the ids become objects.
        items = msgspec.json.decode(content, type=Create).requests
    except msgspec.ValidationError as error:
        raise ApiError(status=400, message=_said(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(status=400, message="The request body is not valid JSON") from error
    if len(items) > MAX_REQUESTS:
        raise ApiError(status=413, message=f"requests: at most {MAX_REQUESTS} requests are allowed; got {len(items)}")
    if not items:
        raise ApiError(status=400, message="requests: List should have at least 1 item after validation, not 0")
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item.custom_id in seen:
            raise ApiError(status=400, message=f"requests.{index}.custom_id: Duplicate custom_id '{item.custom_id}'")
        if not _CUSTOM_ID.fullmatch(item.custom_id):
            raise ApiError(status=400, message=f"requests.{index}.custom_id: {_id_fault(item.custom_id)}")
        seen.add(item.custom_id)
    return items


def _id_fault(custom_id: str) -> str:
    if len(custom_id) > 64:
        return "String should have at most 64 characters"
    if not custom_id:
        return "String should have at least 1 character"
    return "String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"


def _said(said: str) -> str:
    """Msgspec's complaint about a create's body in Anthropic's words."""
    if "missing required field `" in said:
        where = "requests.0." if "$.requests[" in said else ""
        return f"{where}{said.split('`')[1]}: Field required"
    return f"requests: {said}"
