"""Failpoints: a process dies, fails or hangs where a test says so, and nowhere else."""

import errno
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

from keld import failpoint as module
from keld.errors import KeldError
from keld.failpoint import FailpointHit, failpoint


@pytest.fixture(autouse=True)
def _no_passes_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_passes", Counter())


@pytest.mark.parametrize("plan", [None, "", "other:raise", "create.sendx:raise", "create:raise"])
def test_a_point_that_no_plan_names_is_passed(monkeypatch: pytest.MonkeyPatch, plan: str | None) -> None:
    monkeypatch.delenv("KELD_FAILPOINT", raising=False)
    if plan is not None:
        monkeypatch.setenv("KELD_FAILPOINT", plan)
    failpoint("create.send")


def test_a_raise_is_no_error_of_kelds_own() -> None:
    """Else some handler would catch it, and the test would prove nothing."""
    assert not issubclass(FailpointHit, KeldError)


def test_a_named_point_acts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KELD_FAILPOINT", "a:raise")
    with pytest.raises(FailpointHit, match="a"):
        failpoint("a")
    failpoint("a")


def test_a_number_names_the_pass_that_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KELD_FAILPOINT", "a:raise:3")
    failpoint("a")
    failpoint("a")
    with pytest.raises(FailpointHit):
        failpoint("a")


def test_several_points_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KELD_FAILPOINT", "a:raise,b:enospc")
    with pytest.raises(OSError, match="No space left") as caught:
        failpoint("b")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(FailpointHit):
        failpoint("a")


def test_an_action_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KELD_FAILPOINT", "a:explode")
    with pytest.raises(ValueError, match="kill9, stop, raise, hang, enospc"):
        failpoint("a")


def test_kill9_leaves_no_time_for_anything() -> None:
    code = "from keld.failpoint import failpoint\ntry:\n    failpoint('a')\nfinally:\n    print('cleaned up')"
    ended = subprocess.run([sys.executable, "-c", code], env=os.environ | {"KELD_FAILPOINT": "a:kill9"}, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")


def test_what_was_passed_is_remembered() -> None:
    failpoint("a.name.of.this.test")
    assert "a.name.of.this.test" in module.seen
