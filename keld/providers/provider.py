"""Provider: one account at one provider, as the runner calls it; every fault becomes an error with a message.

Above everything in this package, below `runner`.  A provider reports and never decides: no retry of a create, no clock, no state of a job run.
It combines a preset's parts, so that the runner knows neither dialects nor transports.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from msgspec import structs

from keld.cache import Caching, Ttl
from keld.errors import InvalidJob, ProviderUnreachable
from keld.patience import Patience
from keld.price import Lane, Rates, by_the_hour
from keld.pricing import has_list, like, rates, sold_in_batches
from keld.providers.account import Account, completed, key_of, origin, url_of
from keld.providers.base import NO_STATUS, Created, CreateOutcome, Fit, RemoteBatch, Sender, Submission
from keld.providers.call import Target, senders
from keld.providers.check import Check
from keld.providers.download import Broken, ResultFile, download
from keld.providers.encoder import Encoder, Reader
from keld.providers.engine import LoadReader, Served, json_at, load_reader, root_of, served, slots
from keld.providers.envelope import LINES
from keld.providers.fault import Fault, create_outcome, error_of, unreadable
from keld.providers.health import Subject, examine
from keld.providers.kinds import preset_of
from keld.providers.line import beginning
from keld.providers.log import hide_secrets
from keld.providers.pack import Pack, Packing
from keld.providers.page import Listing, Page, youngest
from keld.providers.part import Auth, Batches, BodyTemplate, Connection, Dialect, Envelope, Finds, Preset
from keld.request import Question
from keld.vocabulary import Count

_GLANCE = 20  # batches on a page, enough to see the newest


def connect(name: str, account: Account, patience: Patience | None = None) -> Provider:
    """The provider of an account; makes no call.

    Raises:
        InvalidJob: there is no such kind, or the account lacks something that the kind needs.
    """
    return Provider(name, account, preset_of(account.kind, name), patience or Patience())


def price_list(name: str, account: Account) -> str | None:
    """The price list of an account's models: its `prices`, else the list with the account's name (`groq`), else its kind's; None: there is none.

    Raises:
        InvalidJob: there is no such kind.
    """
    return account.prices or (name if has_list(name) else preset_of(account.kind, name).prices)


def rates_of(
    name: str, account: Account, model: str, lane: Lane, at: datetime, own: Mapping[str, Mapping[str, Any]] | None = None
) -> Rates | None:
    """What an account's model costs in a lane on the day of `at`, by the kind of the account; None if unknown.

    Args:
        own: the job's `prices`, by `account:model`; they take precedence.

    Raises:
        InvalidJob: there is no such kind, or a price in `own` is not a number.
    """
    hour: Decimal | None = getattr(account, "gpu_hour_usd", None)
    if hour is not None and f"{name}:{model}" not in (own or {}):
        return by_the_hour(hour) if lane is Lane.STANDARD else None
    listed = structs.replace(preset_of(account.kind, name).listed(account, model), factor=Decimal(account.price_factor))
    return rates(price_list(name, account), model, lane, at, own, account=name, listed=listed)


class Provider:
    """One account at one provider.

    Attributes:
        host: scheme://host[:port], and the account's part of it if accounts share the host, for people and for the ledger.
        traits: what it can do, and its limits.
    """

    def __init__(self, name: str, account: Account, preset: Preset, patience: Patience) -> None:
        if not isinstance(account, preset.account):
            raise InvalidJob(
                f"Account {name!r} has the type {type(account).__name__}; kind {preset.kind} needs the type {preset.account.__name__}. Nothing was sent."
            )
        account = completed(account, preset.variables)
        preset = preset if preset.for_account is None else preset.for_account(account)
        base_url = url_of(account, preset.base_url_env, preset.base_url)
        self.name, self.traits, self.host = name, preset.traits, origin(base_url) + preset.scope(account)
        self._preset, self._account = preset, account
        self._connection = Connection(account=account, base_url=base_url, key=self._key, patience=patience)

    def ready(self) -> None:
        """Checks that the account has its key; makes no call.

        Raises:
            AccessRefused: its key is not set.
        """
        if not self._key():
            self._auth  # noqa: B018  made without a call: it says if there is no other way to say who asks

    def close(self) -> None:
        if "_batches" in self.__dict__:
            self._batches.close()

    def examine(self, model: str | None, clock: Callable[[], datetime]) -> Iterator[Check]:
        """What would stop a job here, one finding at a time, by calls that are not paid."""
        subject = Subject(
            name=self.name,
            host=self.host,
            preset=self._preset,
            connection=self._connection,
            list_batches=self.newest,
            rates=lambda name, lane: self.rates(name, lane, clock()),
            place=self._place,
        )
        return examine(subject, model, clock)

    # -- asking -----------------------------------------------------------------------------------------------

    def fit(self, question: Question, model: str) -> Fit:
        """Whether that model can be asked this question at all; makes no call."""
        return self._dialect(question, model).fit(question, model)

    def check(self, question: Question, model: str, job: str) -> None:
        """Checks that a job's own parameters and endpoint can be sent to that model unchanged; makes no call.

        Raises:
            InvalidJob: the parameters name a field that Keld sets, or the endpoint is unknown.
        """
        if taken := sorted(self._dialect(question, model).own_params & set(question.params)):
            raise InvalidJob(
                f"{job}: params names {', '.join(taken)}, which Keld sets itself. Nothing was sent. Use models=, max_output_tokens= or prompt= instead."
            )

    def caching(self, question: Question, model: str) -> Caching:
        """How it caches the beginning of that model's prompts."""
        return self._dialect(question, model).caching(model)

    def counter(self, question: Question, model: str) -> Count | None:
        """A function from a text to its number of tokens, exactly; None if they cannot be counted."""
        return self._dialect(question, model).counter(model)

    def cache_fields(self) -> frozenset[str]:
        """The fields with which users mark what is to be cached, in any of its dialects."""
        return frozenset[str]().union(*(dialect.cache_fields for dialect in self._preset.dialects))

    def rates(self, model: str, lane: Lane, at: datetime, own: Mapping[str, Mapping[str, Any]] | None = None) -> Rates | None:
        """The model's prices in a lane on the day of `at`; None if unknown.

        Args:
            own: the job's `prices`, by `account:model`; they take precedence.

        Raises:
            InvalidJob: a price in `own` is not a number.
        """
        return rates_of(self.name, self._account, model, lane, at, own)

    def models_like(self, model: str, at: datetime) -> list[str]:
        """The names that are like a model's among those with a known price in batches, as `account:model`; for a misspelled one."""
        sold = sold_in_batches(self.name, price_list(self.name, self._account), at, lambda _, name, lane, day: self.rates(name, lane, day))
        return [f"{self.name}:{name}" for name in like(model, [quote.model for quote in sold])]

    def encoder(self, question: Question, model: str, nonce: str, cache: Ttl | None = None) -> Encoder:
        """The encoder of one shard's requests; with `cache`, the part that its rows share is marked to be cached for that time.

        Raises:
            InvalidJob: the model cannot give such an output.
        """
        dialect = self._dialect(question, model)
        names = [self._preset.deployment(model, lane) for lane in (Lane.BATCH, Lane.STANDARD)]
        made = [_template(dialect, question, model, cache, name) for name in dict.fromkeys(names)]
        return Encoder(
            path=dialect.path(model),
            nonce=nonce,
            template=made[0],
            fast_template=made[-1],
            dialect=dialect,
            envelope=self._envelope,
            plain_ids=self.traits.plain_ids,
        )

    def named(self, model: str) -> str:
        """The name of a model at the host, in a fast lane."""
        return self._preset.deployment(model, Lane.STANDARD)

    def reader(self, question: Question, model: str) -> Reader:
        """The reader of that model's answers to that question."""
        return Reader(dialect=self._dialect(question, model), envelope=self._preset.envelope)

    def pack_of(self, encoder: Encoder, lane: Lane) -> Pack:
        """The most rows that one request holds.  None are packed in batches without our mark, which are told apart by how many requests they have."""
        packs = isinstance(encoder.dialect, Packing) and (lane is not Lane.BATCH or self.traits.marks_batches)
        return self.traits.pack if packs else Pack()

    def served(self) -> Served:
        """The models that a server of one's own lists; makes a call, and never fails."""
        return served(json_at(f"{root_of(self._connection.base_url)}/v1/models", self._auth))

    def slots(self) -> int | None:
        """How many requests a server of one's own works on at once; None: it does not say.  Makes a call, and never fails."""
        return slots(json_at(f"{root_of(self._connection.base_url)}/props", self._auth))

    def load_reader(self) -> AbstractAsyncContextManager[LoadReader]:
        """A function of the running event loop that gives how busy a server of one's own is; a context manager."""
        return load_reader(self._connection.base_url, self._auth)

    def sender(
        self, path: str, timeout_s: Callable[[], float], most: int, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Sender]:
        """A client of the running event loop for the fast lanes, for at most `most` requests at a time; a context manager.

        Args:
            timeout_s: gives the time limit of a request that begins now.
            headers: those that name the lane (`Encoder.headers`).

        Raises:
            AccessRefused: its key is not set.
        """
        hide_secrets()
        preset = self._preset
        target = Target(
            url=self._url(path),
            auth=self._auth,
            headers=headers or {},
            quotas=preset.quotas,
            codes=preset.codes,
            error_in=preset.error_in,
            aborted=preset.aborted,
            place=self._place,
        )
        return senders(target, timeout_s, most)

    def _url(self, path: str) -> str:
        if self._preset.url is not None:
            return self._preset.url(self._connection, path)
        return self._connection.base_url.rstrip("/") + path.removeprefix(self._preset.base_holds)

    # -- sending a batch --------------------------------------------------------------------------------------

    def upload(self, path: Path, key: str) -> str | None:
        """Uploads a shard's input; a reference to it, or None if the input is sent with the create."""
        with self._as_errors("the upload of an input file"):
            return self._batches.stage(path, key)

    def create(self, submission: Submission) -> CreateOutcome:
        """The outcome of a create, sent once."""
        try:
            return Created(self._batches.create(submission))
        except Fault as fault:
            return create_outcome(fault, self._preset.codes, self._place)

    # -- looking ----------------------------------------------------------------------------------------------

    def get(self, batch_id: str) -> RemoteBatch | None:
        """The batch; None: the provider says that it has no such batch (it may not show it yet)."""
        with self._as_errors("the look at a batch"):
            batch = self._batches.get(batch_id)
            if batch is not None and batch.native == NO_STATUS:
                raise unreadable(HTTPStatus.OK)  # e.g. an error with status 200 and an id in it
            return batch

    def newest(self) -> str | None:
        """The id of the newest batch on the list's first page: no later create is older than it, whatever the clocks say."""
        return youngest(self._page(None, _GLANCE).batches)

    def batches(self, created_after: datetime, *, until: str | None = None, whole: bool = False, after: str | None = None) -> Listing:
        """Batches, including all that were created after an instant, or after the batch `until`; see `Listing` for what its end proves.

        Args:
            after: the id of a batch: only the part of the list after it, which proves nothing; the whole list if the provider pages by token.
        """
        base_url = self._preset.base_url
        # An address that is made from the account is not one that documentation could speak of.
        official = isinstance(base_url, str) and self.host == origin(base_url)
        return Listing(
            lambda cursor: self._page(cursor, self.traits.list_page),
            created_after,
            until=until,
            newest_first=self.traits.newest_first and official,
            whole=whole,
            after=after if self.traits.pages_by_id else None,
        )

    def find(self, key: str, since: datetime) -> list[RemoteBatch]:
        """All batches with this mark that were made after `since`, by the host's own search; only if `traits.finds`.

        Raises:
            AccessRefused, ProviderUnreachable, ProviderRefused: it cannot say, so that a batch may be missing.
        """
        assert self.traits.finds, f"{self.name} has no search of its own"
        with self._as_errors("the search for a batch"):
            return list(cast(Finds, self._batches).find(key, since))

    def _page(self, after: str | None, size: int) -> Page:
        with self._as_errors("the list of batches"):
            return self._batches.page(after, size)

    # -- ending -----------------------------------------------------------------------------------------------

    def cancel(self, batch_id: str) -> None:
        """Asks the provider to cancel; "already ended" is success."""
        with self._as_errors("the cancel of a batch"):
            self._batches.cancel(batch_id)

    def sample(self, batch: RemoteBatch) -> list[str]:
        """Some custom_ids of a batch that has ended, from the beginning of its results."""
        if batch.key is not None:
            return [batch.key]  # its mark shows already whose it is
        with self._as_errors("the download of results", _NO_RESULTS):
            for file in self._batches.results(batch):
                if ids := self._sample(batch, file):
                    return ids
        return []

    def _sample(self, batch: RemoteBatch, file: ResultFile) -> list[str]:
        try:
            with self._batches.fetch(batch, file, 0, "") as piece:
                begun = beginning(piece.chunks)
        except Broken as broken:
            raise ProviderUnreachable(
                f"{self.name} at {self.host} interrupted the results of {batch.id}: {broken}. They are read again later.", account=self.name
            ) from None
        ids, said = self._envelope.ids(begun), begun.strip()
        if said and not ids and (said.startswith((b"<", b"{\n", b"{\r")) or (b"\n" not in said and batch.requests != 1)):
            # One document instead of lines: because of an error with status 200, our batch must not be taken for a foreign one.
            raise ProviderUnreachable(
                f"{self.name} at {self.host} gave results of {batch.id} without a row in them. They are read again later.",
                account=self.name,
            )
        return ids

    def download(self, batch: RemoteBatch, into: Callable[[int], Path], most_bytes: int, *, again: bool = False) -> list[Path]:
        """All result files, those with answers first, complete and on disk, at `into(0)`, `into(1)`, ...; see `download` for `most_bytes` and `again`."""
        with self._as_errors("the download of results", _NO_RESULTS):
            found = enumerate(self._batches.results(batch))
            return [self._download(batch, file, into(n), most_bytes, again) for n, file in found]

    def _download(self, batch: RemoteBatch, file: ResultFile, path: Path, most_bytes: int, again: bool) -> Path:
        sized = structs.replace(file, size_bytes=self._batches.size_bytes(file)) if file.size_bytes is None else file
        return download(lambda start, validator: self._batches.fetch(batch, sized, start, validator), sized, path, most_bytes, again=again)

    def delete_input(self, input_ref: str) -> None:
        """Removes an uploaded input.  "Not there" is success; an unclear reply is an error, since a second create is sent only after this."""
        with self._as_errors("the removal of an input file"):
            self._batches.unstage(input_ref)

    # -- its parts --------------------------------------------------------------------------------------------

    def _key(self) -> str:
        return key_of(self.name, self._account, self._preset.api_key_env, token=self._preset.token_env, optional=self._preset.key_optional)

    def _dialect(self, question: Question, model: str) -> Dialect:
        return self._preset.dialect(question, model)

    @cached_property
    def _auth(self) -> Auth:
        return self._preset.auth(self._connection)

    @cached_property
    def _batches(self) -> Batches:
        if self._preset.batches is None:
            raise InvalidJob(f"{self.name} at {self.host} has no batches. Nothing was sent. Ask it in a fast lane: lane='standard'.")
        return self._preset.batches(self._connection)

    def _place(self) -> str:
        """What to check if the name of the host, or of the bucket's, is not known; see `Preset.place`."""
        if self._account.base_url is None and not os.environ.get(self._preset.base_url_env or ""):
            return self._preset.place(self._account)
        return f"check base_url= of the account{f' or {self._preset.base_url_env}' if self._preset.base_url_env else ''}"

    @property
    def _envelope(self) -> Envelope:
        return self._preset.envelope or LINES

    @contextmanager
    def _as_errors(self, doing: str, missing: str | None = None) -> Iterator[None]:
        """Turns faults into errors.

        Args:
            missing: see `error_of`.

        Raises:
            AccessRefused, ProviderUnreachable, ProviderRefused: see `error_of`.
        """
        try:
            yield
        except Fault as fault:
            raise error_of(fault, self._preset.codes, self.name, self.host, doing, self._place, missing=missing) from None


# The batch was looked at by the same base URL just now.
_NO_RESULTS = "The host has no such file any more: somebody removed it, or its time there is over."


def _template(dialect: Dialect, question: Question, model: str, cache: Ttl | None, name: str) -> BodyTemplate:
    """The body for a model that the host knows by that name; a dialect writes `params` over its own fields."""
    named = question if name == model else replace(question, params={**question.params, "model": name})
    return dialect.template(named, model, cache)
