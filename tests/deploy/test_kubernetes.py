"""The manifests: built as kubectl builds them, valid by the API's own schemas, and right about the service.

KServe's two resources have no schema here: of those only the containers are checked, as those of a pod.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.support import ROOT, served_bundle

FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATIONS = ("base", "overlays/production", "overlays/gpu")
RELEASES = ("1.32", "1.34", kubernetes_validate.latest_version().removeprefix("v"))
SECCOMP = {"type": "RuntimeDefault"}
GRACE = 30  # seconds that a pod has to end where nothing else is said
Resource = dict[str, Any]


def build(name: str) -> list[Resource]:
    """What `kubectl apply --kustomize` would send."""
    tools = [["kubectl", "kustomize"], ["kustomize", "build"]]
    tool = next((tool for tool in tools if shutil.which(tool[0])), None)
    if tool is None:
        pytest.skip("neither kubectl nor kustomize is installed")
    done = subprocess.run([*tool, FOLDER / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(resources: list[Resource], kind: str) -> Resource:
    (found,) = [resource for resource in resources if resource["kind"] == kind]
    return found


def kserve(name: str) -> Resource:
    resource: Resource = yaml.safe_load((FOLDER / "kserve" / name).read_text(encoding="utf-8"))
    return resource


def containers() -> list[Resource]:
    """The service's container wherever it is described."""
    deployments = [of_kind(build(name), "Deployment") for name in KUSTOMIZATIONS]
    found = [deployment["spec"]["template"]["spec"]["containers"][0] for deployment in deployments]
    return [*found, kserve("runtime.yaml")["spec"]["containers"][0]]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_every_resource_is_valid(name: str, release: str) -> None:
    resources = build(name)

    for resource in resources:
        kubernetes_validate.validate(resource, release, strict=True)
    kinds = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}
    assert kinds <= {resource["kind"] for resource in resources}


def test_a_mistake_would_be_found() -> None:
    deployment = of_kind(build("base"), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, RELEASES[-1], strict=True)


def test_the_containers_of_kserve_are_those_of_a_pod() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    spec = {"containers": kserve("runtime.yaml")["spec"]["containers"]}

    kubernetes_validate.validate(pod | {"spec": spec}, RELEASES[-1], strict=True)


def test_kserves_service_asks_for_the_runtime_and_a_model_that_there_is() -> None:
    runtime, service = kserve("runtime.yaml"), kserve("inferenceservice.yaml")
    model = service["spec"]["predictor"]["model"]
    (format_,) = runtime["spec"]["supportedModelFormats"]

    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"] == {"name": format_["name"], "version": format_["version"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert (ROOT / "models" / service["metadata"]["name"]).is_dir()


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_every_selector_finds_the_pods(name: str) -> None:
    resources = build(name)
    template = of_kind(resources, "Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    selectors = [
        of_kind(resources, "Deployment")["spec"]["selector"]["matchLabels"],
        of_kind(resources, "Service")["spec"]["selector"],
        of_kind(resources, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(resources, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        template["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]

    assert all(selector and selector.items() <= labels for selector in selectors)
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in of_kind(resources, "Service")["spec"]["ports"]} <= ports
    target = of_kind(resources, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == of_kind(resources, "Deployment")["metadata"]["name"]


def test_the_probes_ask_what_the_service_answers() -> None:
    probes = {
        probe["httpGet"]["path"]
        for container in containers()
        for name, probe in container.items()
        if name.endswith("Probe")
    }
    with TestClient(create_app(Settings(models=served_bundle().parents[1], runners=1))) as client:
        assert {path: client.get(path).status_code for path in probes} == dict.fromkeys(probes, 200)


def test_the_variables_are_settings_with_values_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for container in containers():
        variables = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert {f"FOLDSERVE_{name.upper()}" for name in Settings.model_fields} >= set(variables)
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                if value is not None:
                    patch.setenv(name, value)
            Settings()


def test_the_pods_are_hardened_and_get_what_they_ask_for() -> None:
    for container in containers():
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        (threads,) = [int(entry["value"]) for entry in container["env"] if entry["name"] == "FOLDSERVE_THREADS"]
        assert int(container["resources"]["limits"]["cpu"]) % threads == 0
    assert kserve("runtime.yaml")["spec"]["containers"][0]["securityContext"]["seccompProfile"] == SECCOMP
    for name in KUSTOMIZATIONS:
        pod = of_kind(build(name), "Deployment")["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == SECCOMP
        assert f"USER {pod['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
        assert pod["automountServiceAccountToken"] is False


def test_a_pod_is_given_the_time_that_its_end_takes() -> None:
    settings = Settings()
    for name in KUSTOMIZATIONS:
        pod = of_kind(build(name), "Deployment")["spec"]["template"]["spec"]
        pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        needed = pause + settings.drain_delay + settings.shutdown_timeout
        assert pod["terminationGracePeriodSeconds"] > needed
    variables = {entry["name"]: entry["value"] for entry in kserve("runtime.yaml")["spec"]["containers"][0]["env"]}
    assert settings.drain_delay + float(variables["FOLDSERVE_SHUTDOWN_TIMEOUT"]) < GRACE


def test_a_replica_with_a_card_asks_for_one_and_uses_it() -> None:
    deployment = of_kind(build("overlays/gpu"), "Deployment")["spec"]
    container = deployment["template"]["spec"]["containers"][0]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}

    assert container["image"].startswith("foldserve-gpu:")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert variables["FOLDSERVE_PROVIDER"] == "cuda"
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_volumes_are_claimed_and_mounted_where_the_models_are_looked_for() -> None:
    resources = build("overlays/production")
    pod = of_kind(resources, "Deployment")["spec"]["template"]["spec"]
    (volume,), (mount,) = pod["volumes"], pod["containers"][0]["volumeMounts"]
    variables = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}

    claim = of_kind(resources, "PersistentVolumeClaim")["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    assert Path(variables["FOLDSERVE_MODELS"]) == Path(mount["mountPath"])
    assert kserve("inferenceservice.yaml")["spec"]["predictor"]["model"]["storageUri"] == f"pvc://{claim}"
