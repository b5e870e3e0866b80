"""The manifests in deploy/kubernetes, as a cluster gets them."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator

import pytest

from deploy import manifests
from deploy.manifests import Document, documents, overlays, problems
from jobs.settings import Settings
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def cpu() -> list[Document]:
    return documents("cpu")


def of(kind: str, found: list[Document]) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in found if document["kind"] == kind}


def pods(found: list[Document]) -> Iterator[tuple[str, Document]]:
    for kind in ("Deployment", "StatefulSet"):
        for name, document in of(kind, found).items():
            yield name, document["spec"]["template"]["spec"]


def variables(pod: Document) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "") for variable in pod["containers"][0].get("env", [])}


@pytest.mark.parametrize("overlay", overlays())
def test_an_overlay_is_valid(overlay: str) -> None:
    found = documents(overlay)
    assert [line for document in found for line in problems(document)] == []
    names = [(document["kind"], document["metadata"]["name"]) for document in found]
    assert len(names) == len(set(names))
    assert all(
        document["metadata"].get("namespace") == "skipvsr" for document in found if document["kind"] != "Namespace"
    )


def test_the_check_finds_misspelt_fields_and_unknown_kinds(cpu: list[Document]) -> None:
    wrong = copy.deepcopy(of("Deployment", cpu)["skipvsr-api"])
    wrong["spec"]["replica"] = 2
    assert "replica" in next(problems(wrong))
    scaled = copy.deepcopy(of("ScaledObject", cpu)["skipvsr-worker"])
    scaled["spec"]["triggers"][0]["metadata"]["targetValue"] = 1
    assert "is not of type 'string'" in next(problems(scaled))
    assert list(problems({"apiVersion": "v1", "kind": "Nothing", "metadata": {"name": "x"}}))


def test_the_check_refuses_what_it_cannot_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_FIELDS", {"kind"})
    with pytest.raises(ValueError, match="does not know"):
        documents("cpu")


@pytest.mark.parametrize("overlay", overlays())
def test_pods_run_as_nobody_on_a_read_only_system(overlay: str) -> None:
    for name, pod in pods(documents(overlay)):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        (container,) = pod["containers"]
        rights = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == rights, name
        assert {"startupProbe", "livenessProbe"} <= container.keys(), name
        assert container["resources"]["limits"]["memory"], name


def test_a_worker_gets_no_api_key_and_redis_only_its_password(cpu: list[Document]) -> None:
    given = {}
    for name, pod in pods(cpu):
        (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        given[name] = {item["key"] for item in secret["items"]}
    keys = {"skipvsr_redis_url", "skipvsr_api_key"}
    assert given == {
        "skipvsr-api": keys,
        "skipvsr-grpc": keys,
        "skipvsr-worker": {"skipvsr_redis_url"},
        "skipvsr-redis": {"redis.conf"},
    }


def test_pods_live_longer_than_their_drain(cpu: list[Document]) -> None:
    found = dict(pods(cpu))
    worker, grpc = found["skipvsr-worker"], found["skipvsr-grpc"]
    assert worker["terminationGracePeriodSeconds"] >= float(variables(worker)["SKIPVSR_STOP_GRACE_SECONDS"]) + 20
    assert grpc["terminationGracePeriodSeconds"] >= float(variables(grpc)["SKIPVSR_GRPC_DRAIN_SECONDS"]) + 20
    for name in ("skipvsr-api", "skipvsr-grpc"):
        assert found[name]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] >= 5


@pytest.mark.parametrize("overlay", overlays())
def test_every_variable_is_a_setting(overlay: str) -> None:
    found = documents(overlay)
    names = {name for _, pod in pods(found) for name in variables(pod)}
    names |= {name for document in of("ConfigMap", found).values() for name in document["data"]}
    ours = {f"SKIPVSR_{name.upper()}" for name in Settings.model_fields} | {"SKIPVSR_SECRETS_DIR"}
    assert names <= ours | {"NVIDIA_DRIVER_CAPABILITIES"}  # of the container runtime


def test_every_deployment_has_a_budget_and_ports_that_exist(cpu: list[Document]) -> None:
    deployments = of("Deployment", cpu)
    assert of("PodDisruptionBudget", cpu).keys() == deployments.keys()
    for name, service in of("Service", cpu).items():
        pod = dict(pods(cpu))[name]
        ports = {port["name"] for port in pod["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_keda_counts_jobs_with_metrics_that_the_api_has(cpu: list[Document]) -> None:
    spec = of("ScaledObject", cpu)["skipvsr-worker"]["spec"]
    assert spec["minReplicaCount"] == 0
    assert spec["scaleTargetRef"]["name"] in of("Deployment", cpu)
    assert "replicas" not in of("Deployment", cpu)["skipvsr-worker"]["spec"], "two masters"
    names = [trigger["name"] for trigger in spec["triggers"]]
    assert spec["advanced"]["scalingModifiers"]["formula"].split(" + ") == names
    metrics = (ROOT / "service" / "http" / "api_metrics.py").read_text()
    for trigger in spec["triggers"]:
        (name,) = re.findall(r'^(\w+)\{state="\w+"\}$', trigger["metadata"]["valueLocation"])
        assert f'"{name}"' in metrics
        assert trigger["metadata"]["url"] == "http://skipvsr-api.skipvsr.svc:8000/metrics"


def test_only_known_traffic_passes(cpu: list[Document]) -> None:
    policies = of("NetworkPolicy", cpu)
    assert policies["skipvsr-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (way,) = policies["skipvsr-redis"]["spec"]["ingress"]
    assert way["from"][0]["podSelector"]["matchExpressions"][0]["values"] == ["api", "grpc", "worker"]


def test_files_in_a_bucket_need_no_volume_and_no_redis_in_the_cluster() -> None:
    found = documents("s3")
    kinds = {document["kind"] for document in found}
    assert not kinds & {"PersistentVolumeClaim", "StatefulSet"}
    for name, pod in pods(found):
        assert pod["containers"][0]["envFrom"] == [{"configMapRef": {"name": "skipvsr-storage"}}], name
        (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        keys = {item["key"] for item in secret["items"]}
        assert {"skipvsr_s3_access_key_id", "skipvsr_s3_secret_access_key"} <= keys, name
        assert "emptyDir" in next(volume for volume in pod["volumes"] if volume["name"] == "data"), name
    (settings,) = of("ConfigMap", found).values()
    Settings.model_validate({name.removeprefix("SKIPVSR_").lower(): v or None for name, v in settings["data"].items()})


def test_a_gpu_for_each_worker() -> None:
    found = dict(pods(documents("nvidia")))
    for name in ("skipvsr-worker", "skipvsr-grpc"):
        (container,) = found[name]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert variables(found[name])["SKIPVSR_DEVICE"] == "cuda"
        assert variables(found[name])["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility,video", "NVENC needs video"
    assert "nvidia.com/gpu" not in found["skipvsr-api"]["containers"][0]["resources"]["limits"]
