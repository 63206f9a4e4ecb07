"""The wheel as a user gets it: its metadata, its types, its commands."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("wheel")  # one wheel, one cache
PACKAGES = ("keld", "keld_dagster", "keld_airflow")

USER_CODE = """
from datetime import timedelta
from decimal import Decimal

import keld
from keld import AccessRefused, CeilingTooLow, Job, Keld, Lane, RunState, Status

labels = Job(name="labels", key="id", prompt="{body}", models=["openai:gpt-5-mini"], deadline=timedelta(hours=9), ceiling_usd=40)


def spent(status: Status) -> Decimal:
    reveal_type(status.state)
    reveal_type(status.batches)
    return status.cost_usd


with Keld(namespace="team") as environment:
    try:
        plan = environment.plan(labels, "in.parquet")
        reveal_type(plan.chosen)
        status = environment.run(labels, "in.parquet", sink="out.parquet")
        over = status.state is RunState.FINISHED and status.problem_type is not AccessRefused
        reveal_type(environment.spend("team").total.paid_usd)
    except CeilingTooLow as problem:
        reveal_type(problem.needed_usd)
"""
REVEALED = [
    "keld.state.RunState",
    "tuple[keld.status.Batch, ...]",
    "keld.plan.Option | None",
    "decimal.Decimal",
    "decimal.Decimal",
]
EDGES_REVEALED = [
    "dagster._core.definitions.assets.definition.assets_definition.AssetsDefinition",
    "keld_airflow.operator.KeldBatchOperator",
    "keld_dagster.resource.KeldResource",
]
WRONG_CODE = """
import keld
from keld import Job, Keld

Job(name="labels", key="id", prompt="{body}", models="openai:m", ceiling="40")
keld.Keldd
Keld().run(5, "in.parquet").costs
"""
WRONG = ["call-arg", "attr-defined", "attr-defined", "arg-type"]
EDGES_CODE = """
from keld import Job
from keld_airflow import KeldBatchOperator
from keld_dagster import KeldResource, build_batch_assets

job = Job(name="labels", key="id", prompt="{body}", models="openai:m")
assets = build_batch_assets(job, source="in.parquet")
reveal_type(assets)
reveal_type(KeldBatchOperator(task_id="labels", job=job, source="in.parquet", sink="out.parquet"))
reveal_type(KeldResource())
build_batch_assets(job, sauce="in.parquet")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)], cwd=ROOT, check=True, capture_output=True)
    return next(into.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and of everything else what this environment has; never the working tree."""
    at = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(at)], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(at), "platbase": str(at)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # a .pth file there is not followed in turn
    python = at / "bin" / "python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--ignore-installed",
            "--target",
            str(packages),
            str(wheel),
        ],
        check=True,
    )
    return python


def _mypy(installed: Path, code: str, tmp_path: Path) -> list[str]:
    """What mypy says of a user's file, in the user's directory and by the user's environment."""
    (tmp_path / "user.py").write_text(code)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--python-executable", str(installed)]
    cache = ROOT / ".mypy_cache" / "wheel"
    ended = subprocess.run([*mypy, "--cache-dir", str(cache), "user.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    return ended.stdout.splitlines()


def _revealed(said: list[str]) -> list[str]:
    return [
        line.partition('Revealed type is "')[2].rstrip('"').replace("_decimal.", "decimal.") for line in said if "Revealed type" in line
    ]


def test_each_package_of_the_wheel_is_typed(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [f"{package}/py.typed" for package in PACKAGES if f"{package}/py.typed" not in names] == []


def test_the_wheel_holds_only_the_three_packages(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheels_metadata_names_its_pythons_and_systems(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = Parser().parsestr(archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode())
    classifiers = metadata.get_all("Classifier") or []
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)} <= set(classifiers)
    assert {"Operating System :: POSIX", "Typing :: Typed"} <= set(classifiers)


@pytest.mark.share(2)
@pytest.mark.parametrize("words", [["-m", "keld", "--version"], ["-c", "import keld; print(keld.__version__)"]], ids=["command", "module"])
def test_the_installed_wheel_says_its_version(installed: Path, words: list[str], tmp_path: Path) -> None:
    ended = subprocess.run(
        [installed, *words], cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""}
    )
    import keld

    assert ended.stdout.split()[-1] == keld.__version__


@pytest.mark.slow  # CI plays it by `make types`; ten seconds, more where mypy has no cache yet
def test_a_users_file_is_type_checked_against_the_wheel(installed: Path, tmp_path: Path) -> None:
    said = _mypy(installed, USER_CODE, tmp_path)
    assert [line for line in said if ": error:" in line] == []
    assert _revealed(said) == REVEALED


@pytest.mark.slow  # as the one before
def test_a_users_mistakes_are_found_against_the_wheel(installed: Path, tmp_path: Path) -> None:
    """A front door whose names were all of type Any would let these pass."""
    said = _mypy(installed, WRONG_CODE, tmp_path)
    assert [line.rpartition("[")[2].rstrip("]") for line in said if ": error:" in line] == WRONG


@pytest.mark.slow  # Airflow and Dagster are a minute of types
def test_a_users_file_for_the_orchestrators_is_type_checked_against_the_wheel(installed: Path, tmp_path: Path) -> None:
    said = _mypy(installed, EDGES_CODE, tmp_path)
    assert [line.rpartition("[")[2].rstrip("]") for line in said if ": error:" in line] == ["call-arg"]
    assert _revealed(said) == EDGES_REVEALED
