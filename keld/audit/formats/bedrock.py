"""Bedrock: the log of model invocations, in S3 (`.json.gz`) or CloudWatch.  How long a call took is in its body; the operation says whether it
streamed.

Names of docs.aws.amazon.com/bedrock, "model invocation logging", and of a public reader's fixture (29 Nov 2026).  Input is without what was read from
or written to the cache (anomalyco/opencode#38427, read 1 Dec 2026).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keld.audit.format import Format, needs


def _rows(entry: Any) -> Iterator[Mapping[str, Any]]:
    """The entry of a call, with a stream flag; the object that only tests a permission has no operation."""
    if isinstance(entry, dict) and (operation := entry.get("operation")):
        yield entry | {"streamed": "Stream" in operation}


FORMAT = Format(
    name="bedrock",
    title="Bedrock invocation log",
    needs=needs("schemaType timestamp modelId operation", "schemaType timestamp accountId region"),
    unfold=_rows,
    names={
        "id": ("requestId",),
        "at": ("timestamp",),
        "streamed": ("streamed",),
        "model": ("modelId",),
        "service": ("identity/arn",),
        "job": ("requestMetadata/job", "requestMetadata"),
        "operation": ("operation",),
        "tags": ("requestMetadata",),
        "duration_ms": ("output/outputBodyJson/metrics/latencyMs",),
        "fresh": ("input/inputTokenCount",),
        "cached": ("input/cacheReadInputTokenCount",),
        "written": ("input/cacheWriteInputTokenCount",),
        "output": ("output/outputTokenCount",),
        "status": ("errorCode",),
        "request": ("input/inputBodyJson",),
    },
    provider="bedrock",
)
