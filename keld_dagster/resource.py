"""Resource: ledger, staging and accounts, as Dagster configuration.

No key is a field: an account names the environment variable that holds its key, since Dagster shows a resource's fields in
its UI.  Dagster creates a new resource for every step and every tick, so its `Keld` opens at its first use and is closed
when the step or the tick ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, create_model

from keld import InvalidJob, Keld, account_fields, account_of, kinds
from keld_dagster.launcher import elsewhere


def _number_as_text(value: object) -> object:
    """Numbers become texts, because Dagster's configuration has no decimals."""
    return str(value) if isinstance(value, Decimal | int | float) and not isinstance(value, bool) else value


_TYPES: dict[type, Any] = {
    str: str | None,
    int: int | None,
    dict: dict[str, str] | None,
    Decimal: Annotated[str | None, BeforeValidator(_number_as_text)],
}


def _description(field: str) -> str:
    owners = [kind for kind in kinds() if field in account_fields(kind)]
    return "Of every kind; see keld.Account." if len(owners) == len(kinds()) else f"Only of accounts of kind {', '.join(owners)}."


# From the accounts' own classes, so that both have the same fields.  `Any`, because no type checker can see them: it takes any keyword.
_FIELDS: dict[str, Any] = {
    name: (_TYPES[form], Field(default=None, description=_description(name))) for name, form in account_fields().items()
}
_AccountFields: Any = create_model("_AccountFields", __base__=dg.Config, **_FIELDS)


class KeldAccount(_AccountFields):
    """One more provider account, or other settings of a built-in one; see `keld.Account` and the class of its kind, such as `keld.BedrockAccount`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)  # a field that is not known may be a key, which no error quotes

    kind: str = Field(description=f"Whose API it speaks: {', '.join(kinds())}.")
    base_url: str | None = Field(
        default=None, description="None: the kind's default (an environment variable such as OPENAI_BASE_URL, else the official host)."
    )
    api_key_env: str | None = Field(default=None, description="The environment variable that holds the key; never the key itself.")


class KeldResource(dg.ConfigurableResource["KeldResource"]):
    """The ledger, staging and accounts of job runs; `get()` returns the `keld.Keld`.  See `keld.Keld` for the fields."""

    home: str | None = Field(
        default=None,
        description="Directory of ledger and staging, shared by all processes. Default: KELD_HOME, else `keld` in DAGSTER_HOME, else `.keld`.",
    )
    ledger_url: str | None = Field(
        default=None, repr=False, description="sqlite:///... or postgresql://...; use dg.EnvVar if it holds a password."
    )
    namespace: str | None = Field(
        default=None, description="Keeps several teams apart in one ledger. Default: KELD_NAMESPACE, else the code location's name."
    )
    hold: Literal["queued", "none"] = Field(
        default="queued",
        description="While the provider works, a queued run that takes no slot represents the partitions. `none`: no such run; the answers are "
        "collected all the same, but Dagster marks a backfill as failed before they are.",
    )
    accounts: dict[str, KeldAccount] = Field(default_factory=dict, description="By the name before the colon in a job's models.")

    _keld: Keld | None = PrivateAttr(default=None)
    _location: str | None = PrivateAttr(default=None)
    _instance: dg.DagsterInstance | None = PrivateAttr(default=None)

    def get(self, location: str | None = None, executor: dg.ExecutorDefinition | None = None) -> Keld:
        """The environment, opened at the first use.

        Args:
            location: the code location that uses it, if Dagster has not given it; its name is the default namespace.
            executor: of the job whose step uses it.

        Raises:
            Failure: the ledger is a file, and runs or steps are on other hosts.
        """
        if self._keld is None:
            self._location = self._location or location
            keld = self.open()
            _check_shared(keld, elsewhere(self._instance, executor))
            self._keld = keld
        return self._keld

    def open(self) -> Keld:
        """A new environment; override it to give `Keld` what no configuration can hold (a clock, settings)."""
        accounts = {
            name: account_of(
                given.kind,
                {field: getattr(given, field) for field in account_fields()},
                f"The account {name!r} of the KeldResource",
                base_url=given.base_url,
                api_key_env=given.api_key_env,
            )
            for name, given in self.accounts.items()
        }
        return Keld(
            home=self.directory,
            ledger_url=self.ledger_url,
            namespace=self.namespace,
            default_namespace=self._location,
            accounts=accounts,
        )

    @property
    def has_namespace(self) -> bool:
        """True if the namespace is chosen; else it is the code location's name, which not every run has."""
        return bool(self.namespace or os.environ.get("KELD_NAMESPACE"))

    @property
    def directory(self) -> Path | None:
        """`home`, or a directory that does not depend on the working directory, which differs between Dagster's processes; None: Keld's default."""
        if self.home is not None:
            return Path(self.home)
        if os.environ.get("KELD_HOME") or not os.environ.get("DAGSTER_HOME"):
            return None
        return Path(os.environ["DAGSTER_HOME"]) / "keld"

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[KeldResource]:
        self._location = None if context.run is None else location_of(context.run)
        self._instance = context.instance
        try:
            yield self
        finally:
            if self._keld is not None:
                self._keld.close()
                self._keld = None


def _check_shared(keld: Keld, others: Sequence[str]) -> None:
    """Passes if runs and steps are on this host, or the ledger can be shared with other hosts.

    Raises:
        Failure: the ledger is a file, and these start each run or step elsewhere; a retry would not help.
    """
    try:
        keld.check_shared(others, "ledger_url of the KeldResource, or KELD_LEDGER_URL")
    except InvalidJob as problem:
        raise dg.Failure(str(problem), allow_retries=False) from None


def location_of(run: dg.DagsterRun) -> str | None:
    """The name of the code location of a run; None if a test or a script executes it directly."""
    return None if run.remote_job_origin is None else run.remote_job_origin.location_name


def require_configured(resource: object) -> None:
    """Passes if a resource is None, a `KeldResource`, or a definition of Dagster's that makes one.

    Raises:
        ValueError: it is something else; or it is to be configured at launch: what a person gives a run that sends, the sensor and the runs that collect
            never hear of.
    """
    if resource is None or isinstance(resource, KeldResource | dg.ResourceDefinition):
        return
    if not hasattr(resource, "resource_cls"):  # Dagster's class of those that are configured at launch is not public
        kind = f"the class {resource.__name__}" if isinstance(resource, type) else f"a {type(resource).__name__}"
        raise ValueError(f"resource= is {kind}; give KeldResource(...), an object.")
    raise ValueError(
        "The KeldResource is to be configured at launch, but the sensor and the runs that collect are not launched by a person: they would look for "
        "the answers elsewhere. Give KeldResource(...), with dg.EnvVar(...) for what differs from deployment to deployment."
    )


def given_at_launch(context: dg.AssetExecutionContext, resource_key: str) -> Sequence[str]:
    """The fields of the resource to which the run's own configuration gives another value than the code location does."""
    resources: Any = context.run.run_config.get("resources", {})
    config = resources.get(resource_key, {}).get("config", {})
    declared = context.repository_def.get_top_level_resources().get(resource_key)
    field = None if declared is None else declared.config_schema.as_field()
    usual = field.default_value if field is not None and field.default_provided else {}
    return [name for name, value in config.items() if name != "hold" and (usual.get(name) or None) != (value or None)]


_given: list[KeldResource] = []


def one_of_equals(resource: KeldResource) -> KeldResource:
    """The first resource of this process that is configured like this one: for one key Dagster accepts one object, not two equal ones."""
    for other in _given:
        if other == resource and _kinds(other) == _kinds(resource):
            return other
    _given.append(resource)
    return resource


def _kinds(resource: KeldResource) -> list[type]:
    """The types of its values, to be compared too: a text and an `EnvVar` of that name are equal.

    Of its fields alone, since Dagster keeps what it made of a resource beside them, as soon as a repository is built: a process that builds its
    definitions twice (each run's does) would compare one that is used with one that is new.
    """
    values = [resource, *_values(resource), *(value for account in resource.accounts.values() for value in _values(account))]
    named = [part for value in values if isinstance(value, dict) for part in value.values()]
    return [type(value) for value in (*values, *named)]


def _values(configured: BaseModel) -> list[Any]:
    return [getattr(configured, name) for name in type(configured).model_fields]
