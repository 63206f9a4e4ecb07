"""Errors: everything Keld raises on purpose, under one root.

Below everything on the road.  A message says what happened, in numbers where there are any, what was and was not sent
or paid, and what to do.  No error ever carries a prompt, an answer or a key.  One bad *row* is an outcome (`answer`),
not an exception.
"""


class KeldError(Exception):
    """The root: catch this to catch everything Keld raises on purpose.

    `permanent`: to try again without a change (of the declaration, the table, the key, the settings) meets the same error, so an
    orchestrator must not spend its retries on it.
    """

    permanent: bool = False


class InvalidJob(KeldError):
    """A declaration that cannot work; the message names the field and the fix.  Nothing was sent."""

    permanent = True


class SourceError(KeldError):
    """The partition is not what the declaration says (missing column, null or repeated key), or is not in a form that Keld reads."""

    permanent = True


class SourceUnavailable(SourceError):
    """The partition is not there (yet), or could not be read to its end."""

    permanent = False


class SchemaError(KeldError):
    """An `output_type` that has no form as answer columns."""

    permanent = True


class SinkError(KeldError):
    """The enriched partition cannot be written; the answers are safe in staging and the write can be repeated."""


class SinkRefused(SinkError):
    """No enriched partition can ever be written there: the path names no form that Keld writes, or misses its partition."""

    permanent = True


class StagingError(KeldError):
    """Keld's own staging cannot be written or does not hold what the ledger says it holds."""


class PriceUnknown(KeldError):
    """No rate is known for a model in a lane, and the job has a ceiling: a guess would break it."""

    permanent = True


class CeilingTooLow(KeldError):
    """The worst case of the cheapest plan exceeds `ceiling_usd`.  Nothing was sent."""

    permanent = True


class DeadlinePassed(KeldError):
    """An absolute deadline that lies in the past.  Nothing was sent."""

    permanent = True


class UnknownJobRun(KeldError):
    """No such job run in this ledger."""


class LedgerError(KeldError):
    """The ledger cannot be opened, or is of another version."""


class LeaseLost(KeldError):
    """Another worker holds the job run now; what this one was about to write was refused, and nothing was lost."""


class AccessRefused(KeldError):
    """The provider refused the key, the project or the billing.  Nothing was created by the refused call."""

    permanent = True


class ProviderUnreachable(KeldError):
    """The provider did not answer, or answered with a fault of its own, to a call that changes nothing."""


class ProviderRefused(KeldError):
    """The provider refused a call for good (a definite 4xx); the message carries its status and code."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class InvalidAnswer(Exception):
    """One answer that breaks the output schema: a row's outcome, never a job's end.  Holds the rule, not the value."""
