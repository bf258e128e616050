"""compose.yaml: read by Docker Compose itself, and brought up as far as its images can be made here.

Prometheus is the one that is installed, in an image of its own; Grafana's part is not run.
"""

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.deploy.prometheus import Prometheus
from tests.docker.engine import docker
from tests.support import ROOT, fetch, golden_picture, served_bundle

pytestmark = pytest.mark.docker
FILE = ROOT / "compose.yaml"
PROMETHEUS = """
FROM python:3.11-slim
COPY prometheus /bin/prometheus
RUN mkdir /prometheus && chown 65534:65534 /prometheus
USER 65534
ENTRYPOINT ["/bin/prometheus"]
"""
# The tests' images, ports that are free, and no ten seconds until the first look whether the service is healthy.
OVERRIDE = """
services:
  foldserve:
    image: {foldserve}
    ports: !override ["127.0.0.1::8000"]
    healthcheck: {{ interval: 1s }}
  prometheus:
    image: {prometheus}
    ports: !override ["127.0.0.1::9090"]
"""


# Of the session, so that it comes before the image is built.
@pytest.fixture(scope="session", autouse=True)
def _compose() -> None:
    command = ["docker", "compose", "version"]
    if shutil.which("docker") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("the plugin docker-compose is not installed")


def test_compose_reads_the_file_as_it_is_meant() -> None:
    written = yaml.safe_load(FILE.read_text(encoding="utf-8"))["services"]

    read = json.loads(docker("compose", "--file", str(FILE), "config", "--format", "json"))["services"]

    assert set(read) == set(written) == {"foldserve", "prometheus", "grafana"}
    published = {name: (port["host_ip"], port["published"]) for name in read for port in read[name]["ports"]}
    assert published == {
        "foldserve": ("127.0.0.1", "8000"),
        "prometheus": ("127.0.0.1", "9090"),
        "grafana": ("127.0.0.1", "3000"),
    }


@pytest.fixture
def prometheus_image(tmp_path: Path) -> Iterator[str]:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed (on Debian: apt install prometheus)")
    shutil.copy(binary, tmp_path / "prometheus")
    (tmp_path / "Dockerfile").write_text(PROMETHEUS, encoding="utf-8")
    tag = f"prometheus-test:{uuid.uuid4().hex[:12]}"
    docker("build", "--tag", tag, str(tmp_path))
    yield tag
    docker("image", "rm", "--force", tag)


@pytest.fixture
def compose(image: str, prometheus_image: str, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Docker Compose with a project of its own, which is gone afterwards."""
    override = tmp_path / "override.yaml"
    override.write_text(OVERRIDE.format(foldserve=image, prometheus=prometheus_image), encoding="utf-8")
    project = ("--project-name", f"foldserve-test-{uuid.uuid4().hex[:12]}", "--project-directory", str(ROOT))

    def run(*arguments: str) -> str:
        return docker("compose", *project, "--file", str(FILE), "--file", str(override), *arguments)

    try:
        yield run
    finally:
        run("down", "--volumes", "--timeout", "60")


@pytest.mark.slow
def test_up_brings_the_service_and_a_prometheus_that_scrapes_it(compose: Callable[..., str]) -> None:
    picture, probabilities = golden_picture(served_bundle())
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"]

    compose("up", "--detach", "--no-build", "--pull", "never", "foldserve", "prometheus")

    answer = fetch(f"http://{compose('port', 'foldserve', '8000')}/predict", picture, "image/png")
    prometheus = Prometheus(f"http://{compose('port', 'prometheus', '9090')}")
    prometheus.wait('up{job="foldserve"}', lambda value: value == 1)
    prometheus.wait("sum(nv_inference_request_success)", lambda value: value == 1)
    assert answer["class"] == int(np.argmax(probabilities))
    assert [[rule["name"] for rule in group["rules"]] for group in prometheus.ask("rules")["groups"]] == [
        [rule["alert"] for rule in group["rules"]] for group in rules
    ]
    for service in ("foldserve", "prometheus"):
        (container,) = json.loads(docker("inspect", compose("ps", "--quiet", service)))
        assert container["HostConfig"]["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in container["HostConfig"]["SecurityOpt"], service
        assert container["HostConfig"]["ReadonlyRootfs"] == (service == "foldserve")
