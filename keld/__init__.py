"""Keld: LLM batch inference as one declaration in the orchestrator you already run.

The map of the house; the files in order are the way of the data.

    job          what a user declares: Job, its terms, its validation
    reading      how text files are read: types, encoding, delimiter, quote
    table/       partition in -> Arrow record batches; enriched rows -> partition out
    schema/      what an answer must look like: output type -> Arrow columns and a strict decoder
    value        what an Arrow value is in a prompt, a CSV cell, a line of JSON
    request      what is asked: the question all rows share; the only maker and reader of custom_id; fingerprints
    escape       a column of values -> the insides of JSON strings
    prompt       rows -> what each of them asks, as a fragment of JSON
    identity     whose job it is, what it asks and of which source
    row_set      some of a partition's rows, a bit each
    size         how many bytes the prompt of each row has, looked at block by block
    spool        many numbers, as they came or in order, in memory that does not grow with them
    snapshot     the rows of a partition as they were asked, taken once
    reuse        the answers that an earlier generation already paid for
    duplicate    rows with the same prompt are asked once
    shard        the slice that becomes one batch; cut within one provider's limits
    price        what tokens cost: lanes, rates, sums
    pricing      who says what a model costs, by kind of provider, model, region, lane and day
    estimate     how many tokens a row is expected to take
    sample       the rows whose tokens are counted where there are too many to count all
    vocabulary   how many tokens a text is, exactly, where that is known
    cache        whether the shared beginning of prompts is marked for the provider's cache
    turnaround   how long a lane takes
    speed        how fast the fast lanes of an account are
    gpu_time     what the time of a machine costs, where that is what is paid
    deadline     how long to wait for a batch, and when its rows must be escalated
    plan         which model in which lane, what it costs, when it is due
    reason       why the prompt cache is used as it is, in words
    state        the life of a shard and of a job run: states, events, transitions
    ledger/      what happened, in order, durable: events, leases, intents, reservations, costs, what was learned
    patience     how long one call to a provider may take
    http         one client an account, and one limit a call
    realtime/    the fast lanes: many requests at once, under rate limits
    objects      a bucket of S3, Google Cloud Storage or Azure
    stored       the files of a job run as objects of a bucket
    staging      the files of a job run, and how they are written
    outcome      what became of one row, in one word
    reply        one result line in neutral terms
    spread       the answer to a request of many rows -> an answer to each
    unanswered   the rows of a shard that no result has mentioned yet
    answer       result lines -> answers, exactly one per request
    merge        answers files -> the answers of one window of rows after the other
    cascade      which answers are accepted, and which model is asked next
    enrich       rows + answers -> the enriched partition
    status       a job run as people and orchestrators see it
    retention    what is staged of job runs that ended long ago, and its removal
    spend        cost lines -> what was paid, saved, expected, and paid twice, grouped as the caller asks
    page/        one file of HTML without a script, for people: its frame, tables and drawings
    audit/       logs of other tools -> which calls could wait, and what that would save
    report/      the ledger as one page for people, and as tables for BI and FinOps tools
    accounts     the provider accounts of an environment, each connected at its first use
    doctor       what would stop a job: accounts, ledger and staging, looked at without a cost
    namespace    where job runs are kept, apart from those of other teams
    follow       a job run advanced until there is nothing to do but wait, or to its end
    notice       what a person should hear of a job run, passed once each to a hook
    telemetry    what a job run was, as OpenTelemetry spans and metrics
    environment  Keld(...): ledger, staging, accounts; the verbs
    webhook      a provider's message that a batch has ended, checked before it is believed
    view         plans, job runs and spend as tables for people
    __main__     `python -m keld`: the same as the command `keld`
    cli/         keld plan | run | status | watch | cancel | reconcile | doctor | gc | prices | spend | audit | report | emulate
    instant      points in time and spans as callers give them -> the standard library's, aware, in UTC
    path         the placeholders in a source's or sink's path
    process      a name for this process, by which another process can check whether it is dead
    errors       every error raised on purpose
    failpoint    named places where a test may make the process die
    background   works on each piece of a file while the next one is made
    runner/      the only rooms that act: open, submit, find_lost, observe, escalate, fast_lane, collect, finish, orphan, ...
    providers/   who answers: dialects and transports, one account at one provider, what each kind is made of
    emulator/    a local stand-in for the providers' APIs; imports nothing of the rest
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keld.cache import Cache, Ttl
    from keld.environment import Keld, Submit
    from keld.errors import (
        AccessRefused,
        CeilingTooLow,
        DeadlinePassed,
        InvalidJob,
        KeldError,
        LeaseLost,
        LedgerError,
        PriceUnknown,
        ProviderError,
        ProviderRefused,
        ProviderUnreachable,
        SchemaError,
        SinkError,
        SinkRefused,
        SourceError,
        SourceUnavailable,
        StagingError,
        UnknownJobRun,
        UnsupportedSystem,
        WebhookRefused,
    )
    from keld.estimate import Estimate
    from keld.identity import fingerprint_of
    from keld.instant import utc
    from keld.job import Column, Embedding, Job, JobTerms, PerRow
    from keld.ledger import Attachment
    from keld.notice import Notice, NoticeKind
    from keld.outcome import Outcome
    from keld.path import absolute_path, check_path, check_sink_path, filled_path, wants_partition
    from keld.patience import Patience
    from keld.plan import Option, Plan, Work
    from keld.price import Bracket, Lane, Quote, Rates, Usage
    from keld.providers.account import Account, AzureAccount, BedrockAccount, SelfHostedAccount, VertexAccount
    from keld.providers.check import Check, CheckState
    from keld.providers.field import account_fields, account_of
    from keld.providers.kinds import kinds
    from keld.reading import Reading
    from keld.retention import Removal
    from keld.runner.finding import Finding, Verdict
    from keld.runner.settings import Settings
    from keld.schema import AnswerColumn, answer_columns
    from keld.spend import Report, Spend
    from keld.state import RunState, State
    from keld.status import Batch, Status
    from keld.table import Parts
    from keld.webhook import WebhookEvent

__version__ = "0.1.0"
__all__ = [
    "AccessRefused", "Account", "AnswerColumn", "Attachment", "AzureAccount", "Batch", "BedrockAccount", "Bracket", "Cache", "CeilingTooLow",
    "Check", "CheckState", "Column", "DeadlinePassed", "Embedding", "Estimate", "Finding", "InvalidJob", "Job", "JobTerms", "Keld", "KeldError",
    "Lane", "LeaseLost", "LedgerError", "Notice", "NoticeKind", "Option", "Outcome", "Parts", "Patience", "PerRow", "Plan", "PriceUnknown", "ProviderError",
    "ProviderRefused", "ProviderUnreachable", "Quote", "Rates", "Reading", "Removal", "Report", "RunState", "SchemaError", "SelfHostedAccount",
    "Settings", "SinkError", "SinkRefused", "SourceError", "SourceUnavailable", "Spend", "StagingError", "State", "Status", "Submit", "Ttl",
    "UnknownJobRun", "UnsupportedSystem", "Usage", "Verdict", "VertexAccount", "WebhookEvent", "WebhookRefused", "Work", "__version__",
    "absolute_path", "account_fields", "account_of", "answer_columns", "check_path", "check_sink_path", "filled_path", "fingerprint_of", "kinds", "utc",
    "wants_partition",
]  # fmt: skip

# Imported at their first use: pyarrow, SQLAlchemy and the SDKs take a second that `import keld` must not cost.
_HOMES = {
    "keld.cache": "Cache Ttl",
    "keld.environment": "Keld Submit",
    "keld.errors": (
        "AccessRefused CeilingTooLow DeadlinePassed InvalidJob KeldError LeaseLost LedgerError "
        "PriceUnknown ProviderError ProviderRefused ProviderUnreachable SchemaError SinkError "
        "SinkRefused SourceError SourceUnavailable StagingError UnknownJobRun UnsupportedSystem WebhookRefused"
    ),
    "keld.estimate": "Estimate",
    "keld.instant": "utc",
    "keld.identity": "fingerprint_of",
    "keld.ledger": "Attachment",
    "keld.job": "Column Embedding Job JobTerms PerRow",
    "keld.notice": "Notice NoticeKind",
    "keld.outcome": "Outcome",
    "keld.path": "absolute_path check_path check_sink_path filled_path wants_partition",
    "keld.patience": "Patience",
    "keld.plan": "Option Plan Work",
    "keld.price": "Bracket Lane Quote Rates Usage",
    "keld.providers.account": "Account AzureAccount BedrockAccount SelfHostedAccount VertexAccount",
    "keld.providers.field": "account_fields account_of",
    "keld.providers.check": "Check CheckState",
    "keld.providers.kinds": "kinds",
    "keld.reading": "Reading",
    "keld.retention": "Removal",
    "keld.runner.finding": "Finding Verdict",
    "keld.runner.settings": "Settings",
    "keld.schema": "AnswerColumn answer_columns",
    "keld.spend": "Report Spend",
    "keld.state": "RunState State",
    "keld.status": "Batch Status",
    "keld.table": "Parts",
    "keld.webhook": "WebhookEvent",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # a type checker that saw this function would take any misspelt name for an object of type Any

    def __getattr__(name: str) -> Any:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'keld' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(home), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOME_OF})
