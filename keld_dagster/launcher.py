"""Launcher: what starts runs or steps on other hosts, where a ledger that is a file of this one cannot be reached.

Each host would have a ledger of its own, and pay for the same rows.  So a launcher is taken for one of other hosts unless it is Dagster's own, which
starts processes on the host of the code location, or inherits from that.  It is judged by its names in `dagster.yaml`, and loaded
only if it is neither Dagster's nor a known package's: the package of a launcher is often missing where code locations run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.instance import InstanceRef

_LOCAL = "DefaultRunLauncher"
_PLUS, _PLUS_LOCAL = "dagster_cloud", "ProcessUserCodeLauncher"  # an agent of Dagster+ that starts processes beside itself


def elsewhere(instance: dg.DagsterInstance | None, executor: dg.ExecutorDefinition | None) -> Sequence[str]:
    """The names of what starts runs or steps on other hosts; empty in tests and on one host."""
    launcher = None if instance is None or not instance.is_persistent else launcher_elsewhere(instance.get_ref())
    return [name for name in (launcher, None if executor is None else _executor(executor)) if name is not None]


def launcher_elsewhere(ref: InstanceRef) -> str | None:
    """The name of what starts runs on other hosts, by the configuration of a Dagster instance."""
    plus = ref.custom_instance_class_data
    if plus is not None and _package(plus.module_name) == _PLUS:
        given = plus.config_dict.get("user_code_launcher")
        name = str(given.get("class", _PLUS)) if isinstance(given, Mapping) else _PLUS
        return None if name == _PLUS_LOCAL else name
    found = ref.run_launcher_data
    return None if found is None or _is_local(found.module_name, found.class_name) else found.class_name


def _is_local(module: str, name: str) -> bool:
    """True if a launcher is Dagster's own or inherits from its local one; one that cannot be loaded here is at home somewhere else."""
    package = _package(module)
    if package == "dagster" or package.startswith("dagster_"):
        return package == "dagster"
    try:
        bases = getattr(import_module(module), name).__mro__
    except Exception:  # noqa: BLE001  # it is other people's module
        return False
    return any(base.__name__ == _LOCAL and _package(base.__module__) == "dagster" for base in bases)


def _executor(executor: dg.ExecutorDefinition) -> str | None:
    """The executor's name, if an integration's package starts each step elsewhere (Celery, Dask, Docker, ECS, Kubernetes)."""
    package = _package(getattr(executor.executor_creation_fn, "__module__", None) or "")
    return f"the executor {executor.name}" if package.startswith("dagster_") else None


def _package(module: str) -> str:
    return module.partition(".")[0]
