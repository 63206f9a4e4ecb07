"""Namespace: where the job runs of an environment are kept, apart from those of other teams in the same ledger.

Beside the road, above `ledger`.  An orchestrator gives its code location's name where nobody names a namespace; what was run before that,
under the default for all, is found there, and taken over when it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from keld.ledger import JobRun, Ledger

_DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """The name, and the namespace whose job runs are found, too; None: there is none."""

    name: str
    before: str | None = None

    @staticmethod
    def of(chosen: str | None, default: str | None) -> Namespace:
        """The one that somebody has chosen, else the caller's default, else the default for all."""
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
