"""Errors: everything Keld raises on purpose, under one root.

Below everything on the road.  A message says what happened, in numbers where there are any, what was and was not sent
or paid, and what to do; the same facts are fields, so that a program never has to read the message.  No error ever carries a
prompt, an answer or a key.  One bad *row* is an outcome (`answer`), not an exception.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any


class KeldError(Exception):
    """The root: catch this to catch everything Keld raises on purpose.

    Attributes:
        permanent: a retry without a change (of the declaration, the table, the key, the settings) ends in the same error, so an
            orchestrator must not retry.
        job: the name of the job; None if the error is not about a single job.
        partition: the key of the partition; None if the error is not about a single partition.
    """

    permanent: bool = False

    def __init__(self, message: str, *, job: str | None = None, partition: str | None = None) -> None:
        super().__init__(message)
        self.job = job
        self.partition = partition

    @property
    def retryable(self) -> bool:
        """The opposite of `permanent`: a later try may succeed without any change."""
        return not self.permanent

    def __reduce__(self) -> tuple[Any, ...]:
        # A class with required fields cannot be made from its message alone, which is what pickle and copy do by default.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[KeldError], args: tuple[Any, ...], fields: dict[str, Any]) -> KeldError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


def type_named(name: str) -> type[KeldError] | None:
    """The error class of that name, which is how the ledger keeps it; None if this version has none."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, KeldError) else None


class InvalidJob(KeldError):
    """A declaration, an argument or a setting that cannot work; the message names it and the fix.  Nothing was sent.

    Attributes:
        field: the field of `Job`, the argument or the setting that is wrong, e.g. `models`; None if it is not a single one.
    """

    permanent = True

    def __init__(self, message: str, *, field: str | None = None, job: str | None = None, partition: str | None = None) -> None:
        super().__init__(message, job=job, partition=partition)
        self.field = field


class SourceError(KeldError):
    """The partition is not what the declaration says (missing column, null or repeated key), or is not in a form that Keld reads.

    Attributes:
        source: where the rows come from: a path or URI, or the kind of the table; None if only the job is known.
    """

    permanent = True

    def __init__(self, message: str, *, source: str | None = None, job: str | None = None, partition: str | None = None) -> None:
        super().__init__(message, job=job, partition=partition)
        self.source = source


class SourceUnavailable(SourceError):
    """The partition does not exist (yet), or could not be read to its end."""

    permanent = False


class SchemaError(KeldError):
    """An `output_type` that cannot be turned into answer columns, or that no acceptable model can be asked for.

    Attributes:
        at: the place in the schema, e.g. `$.items.price`; None if it is the whole schema.
    """

    permanent = True

    def __init__(self, message: str, *, at: str | None = None, job: str | None = None, partition: str | None = None) -> None:
        super().__init__(message, job=job, partition=partition)
        self.at = at


class SinkError(KeldError):
    """The enriched partition cannot be written; the answers are safe in staging and the write can be repeated.

    Attributes:
        sink: the path or URI that cannot be written.
    """

    def __init__(self, message: str, *, sink: str | None = None, job: str | None = None, partition: str | None = None) -> None:
        super().__init__(message, job=job, partition=partition)
        self.sink = sink


class SinkRefused(SinkError):
    """No enriched partition can ever be written to this path: Keld does not write its format, or the path needs a partition and has none."""

    permanent = True


class StagingError(KeldError):
    """Keld's own staging cannot be written or does not hold what the ledger says it holds."""


class PriceUnknown(KeldError):
    """No rate is known for a model in a lane, and a guess could break the ceiling.  Nothing was sent.

    Attributes:
        models: the models without a usable rate, as `provider:model`.
    """

    permanent = True

    def __init__(self, message: str, *, models: Sequence[str], job: str | None = None, partition: str | None = None) -> None:
        super().__init__(message, job=job, partition=partition)
        self.models = tuple(models)


class CeilingTooLow(KeldError):
    """The worst case of the cheapest plan, or of the next shard, exceeds `ceiling_usd`.  What the message names was not sent.

    Attributes:
        needed_usd: the least ceiling that would have been enough, in US dollars; for a job run that has begun, enough for its next step.
        ceiling_usd: the ceiling, in US dollars.
    """

    permanent = True

    def __init__(
        self, message: str, *, needed_usd: Decimal, ceiling_usd: Decimal, job: str | None = None, partition: str | None = None
    ) -> None:
        super().__init__(message, job=job, partition=partition)
        self.needed_usd = needed_usd
        self.ceiling_usd = ceiling_usd


class DeadlinePassed(KeldError):
    """An absolute deadline that is in the past.  Nothing was sent.

    Attributes:
        deadline_at: the deadline, aware, in UTC.
    """

    permanent = True

    def __init__(self, message: str, *, deadline_at: datetime, job: str | None = None, partition: str | None = None) -> None:
        super().__init__(message, job=job, partition=partition)
        self.deadline_at = deadline_at


class UnknownJobRun(KeldError):
    """No such job run in this ledger, or none whose rows can be read.

    Attributes:
        run_id: the id that the caller gave; None if the caller gave job and partition.
    """

    def __init__(self, message: str, *, run_id: str | None = None, job: str | None = None, partition: str | None = None) -> None:
        super().__init__(message, job=job, partition=partition)
        self.run_id = run_id


class LedgerError(KeldError):
    """The ledger cannot be opened, or is of another version."""


class WebhookRefused(KeldError):
    """A message to a webhook that the provider did not sign, or did not sign just now; or one that is no event.  Nothing was changed."""

    permanent = True


class UnsupportedSystem(KeldError):
    """Keld does not run on this operating system.  Nothing was sent."""

    permanent = True


class LeaseLost(KeldError):
    """Another worker has the job run's lease now; the write of this worker was refused, and nothing was lost."""


class ProviderError(KeldError):
    """Everything that a call to a provider may raise; always one of `AccessRefused`, `ProviderUnreachable`, `ProviderRefused`.

    Attributes:
        account: the account, by the name before the colon in `models`; None if the error is not about a single account.
        status: the HTTP status of the reply; None if there was no reply.
    """

    def __init__(
        self, message: str, *, account: str | None = None, status: int | None = None, job: str | None = None, partition: str | None = None
    ) -> None:
        super().__init__(message, job=job, partition=partition)
        self.account = account
        self.status = status


class AccessRefused(ProviderError):
    """The provider refused the key, the project or the billing.  Nothing was created by the refused call."""

    permanent = True


class ProviderUnreachable(ProviderError):
    """The provider did not answer a call that changes nothing, or answered it with a server error."""


class ProviderRefused(ProviderError):
    """The provider refused a call finally (a definite 4xx); the message has its status and code."""


class InvalidAnswer(Exception):
    """One answer that breaks the output schema: an outcome of a row, never an error of the job.  Names the rule, not the value."""
