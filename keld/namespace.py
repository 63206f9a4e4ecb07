"""Namespace: separates the job runs of an environment from those of other teams in the same ledger.

Beside the road, above `ledger`.  An orchestrator gives its code location's name if no namespace is chosen; earlier job runs,
under the general default, are found there, and moved to the new namespace when they are submitted again.
"""

from __future__ import annotations

import msgspec

from keld.ledger import JobRun, Ledger

_DEFAULT = "default"


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """The name, and a second namespace whose job runs are also found; None: there is none."""

    name: str
    before: str | None = None

    @staticmethod
    def of(chosen: str | None, default: str | None) -> Namespace:
        """The chosen one, else the caller's default, else the general default."""
        name = chosen or default or _DEFAULT
        return Namespace(name=name, before=_DEFAULT if chosen is None and name != _DEFAULT else None)

    @property
    def names(self) -> tuple[str, ...]:
        """All namespaces whose job runs are found."""
        return (self.name,) if self.before is None else (self.name, self.before)

    def latest(self, ledger: Ledger, job: str, partition: str) -> JobRun | None:
        """The youngest job run of (job, partition), or None."""
        found = (ledger.catalog.latest(name, job, partition) for name in self.names)
        return next((run for run in found if run is not None), None)
