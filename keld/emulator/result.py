"""Result: the result files of a batch that has ended, as files of its service, with what a fault says of them.

A service's `publish` (`host`) -> **`result`** -> `store`.  For services that name an output file and an error file.
"""

from pathlib import Path

from .batch import Batch
from .life import Phase
from .store import Store


def name_results(store: Store, batch: Batch, phase: Phase, *, expires_after_s: float | None = None, empty_error_file: bool = False) -> None:
    """Gives the result files of a batch their ids; a file without a byte has none, and a batch that failed validation has no files.

    Args:
        empty_error_file: the error file has an id even if it has no byte.
    """
    if batch.rows is not None and phase.status != "failed":
        batch.output_file_id = _result_file(store, batch, batch.out_path, "output", phase, expires_after_s)
        batch.error_file_id = _result_file(store, batch, batch.error_path, "error", phase, expires_after_s, empty_error_file)


def _result_file(
    store: Store, batch: Batch, path: Path, kind: str, phase: Phase, expires_after_s: float | None, empty: bool = False
) -> str | None:
    names = {rule.do for rule in batch.rules_at("results")}
    if f"empty_{kind}_id" in names:
        return ""
    if f"no_{kind}_id" in names:
        return None
    if kind == "error" and "zero_byte_error" in names:
        path.write_bytes(b"")
    elif path.stat().st_size == 0 and f"zero_byte_{kind}" not in names and not empty:
        return None
    return store.add_file(
        path,
        owner=batch.provider,
        filename=f"{batch.id}_{kind}.jsonl",
        purpose="batch_output",
        expires_after_s=expires_after_s,
        at=phase.ended_at,
    ).id
