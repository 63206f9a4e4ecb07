"""The manifests of docs/how-to/staging.md: rendered by the orchestrators' own code, checked against Kubernetes' schemas.  No cluster."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from keld import Keld

PAGE = Path(__file__).parents[2] / "docs/how-to/staging.md"
WORKER = {"KELD_STAGING": "s3://my-bucket/keld", "KELD_SCRATCH": "/scratch"}


def manifest(name: str) -> str:
    (found,) = re.findall(rf"```yaml\n# {re.escape(name)}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return found


def validate(rendered: dict[str, Any]) -> None:
    """Passes if Kubernetes would take it.

    Raises:
        Exception: a field is unknown, missing or of another type.
    """
    checker = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    checker.validate(rendered, checker.latest_version(), strict=True)


def check(pod: dict[str, Any], container: dict[str, Any]) -> None:
    """The pod has the bucket, a scratch of its own, and no volume that another pod may mount."""
    env = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    assert {name: env[name] for name in WORKER} == WORKER
    assert {"name": "scratch", "mountPath": "/scratch"} in [
        {"name": one["name"], "mountPath": one["mountPath"]} for one in container["volumeMounts"]
    ]
    (scratch,) = (one for one in pod["volumes"] if one["name"] == "scratch")
    assert "emptyDir" in scratch
    assert not [one for one in pod["volumes"] if "persistentVolumeClaim" in one or "hostPath" in one or "nfs" in one]


def test_the_pod_of_a_kubernetes_executor(tmp_path: Path) -> None:
    """By Airflow's generator of pods, as its executor calls it for each task."""
    generator = pytest.importorskip(
        "airflow.providers.cncf.kubernetes.pod_generator", reason="the provider cncf-kubernetes is not installed"
    )
    client = pytest.importorskip("kubernetes.client")
    template = tmp_path / "pod.yaml"
    template.write_text(manifest("pod_template.yaml"))
    base = generator.PodGenerator.deserialize_model_file(str(template))
    pod = generator.PodGenerator.construct_pod(
        dag_id="tickets", task_id="label", pod_id="tickets-label-1", try_number=1, kube_image="registry.example/airflow-keld:1.1",
        date=None, args=["airflow", "tasks", "run"], pod_override_object=None, base_worker_pod=base, namespace="airflow",
        scheduler_job_id="1", run_id="r",
    )  # fmt: skip
    rendered = client.ApiClient().sanitize_for_serialization(pod)
    validate(rendered)
    (container,) = rendered["spec"]["containers"]
    assert (container["name"], container["args"], container["image"]) == (
        "base",
        ["airflow", "tasks", "run"],
        "registry.example/airflow-keld:1.1",
    )
    (ledger,) = (one for one in container["env"] if one["name"] == "KELD_LEDGER_URL")
    assert ledger["valueFrom"]["secretKeyRef"]["key"] == "ledger-url"
    check(rendered["spec"], container)


def test_the_job_of_a_k8s_run_launcher() -> None:
    """By Dagster's schema of the launcher's configuration, and its renderer of the job of a run."""
    dagster_k8s = pytest.importorskip("dagster_k8s", reason="dagster-k8s is not installed")
    client = pytest.importorskip("kubernetes.client")
    from dagster._config import process_config, resolve_to_config_type
    from dagster_k8s.job import DagsterK8sJobConfig, UserDefinedDagsterK8sConfig, construct_dagster_k8s_job

    launcher = yaml.safe_load(manifest("dagster.yaml"))["run_launcher"]
    assert (launcher["module"], launcher["class"]) == (dagster_k8s.__name__, dagster_k8s.K8sRunLauncher.__name__)
    found = process_config(resolve_to_config_type(dagster_k8s.K8sRunLauncher.config_type()), launcher["config"])
    assert found.success, found.errors
    known = {
        name: found.value[name]
        for name in (
            "job_image",
            "dagster_home",
            "instance_config_map",
            "service_account_name",
            "env_vars",
            "env_secrets",
            "volumes",
            "volume_mounts",
        )
    }
    job = construct_dagster_k8s_job(
        DagsterK8sJobConfig(image_pull_policy=None, postgres_password_secret=None, **known),
        args=["dagster", "api", "execute_run"], job_name="dagster-run-1", user_defined_k8s_config=UserDefinedDagsterK8sConfig(),
        env_vars=[{"name": one.partition("=")[0], "value": one.partition("=")[2]} for one in known["env_vars"]],
    )  # fmt: skip
    rendered = client.ApiClient().sanitize_for_serialization(job)
    validate(rendered)
    pod = rendered["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"secretRef": {"name": "keld"}} in container["envFrom"]
    check(pod, container)


def test_the_variables_of_the_manifests_lead_keld_to_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**WORKER, "KELD_SCRATCH": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with Keld() as keld:
        assert keld.staging.shown == WORKER["KELD_STAGING"]
        assert keld.staging.root.parent == tmp_path
        assert keld.staging.root.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []
