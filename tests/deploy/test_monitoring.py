"""Prometheus' rules and Grafana's dashboard, against a real Prometheus that scrapes a real service."""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.prometheus import Prometheus
from tests.support import ROOT, fetch, free_port, golden_picture, served_bundle, serving

RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "foldserve.json").read_text(encoding="utf-8"))
# What a service that has just answered some requests has nothing of: that much is no mistake of the query.
MAY_BE_EMPTY = re.compile(r"status=~\"5\.\.\"|foldserve_drift")


def promtool(*arguments: str) -> str:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (on Debian: apt install prometheus)")
    done = subprocess.run(["promtool", *arguments], cwd=RULES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_and_the_rules_are_valid() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")


def test_every_alert_fires_when_it_must_and_only_then() -> None:
    rules = yaml.safe_load((RULES / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    tests = yaml.safe_load((RULES / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    fired = {check["alertname"] for test in tests for check in test["alert_rule_test"] if check.get("exp_alerts")}
    quiet = {check["alertname"] for test in tests for check in test["alert_rule_test"] if not check.get("exp_alerts")}

    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")
    assert fired == quiet == {rule["alert"] for rule in rules}


def queries() -> list[tuple[str, str]]:
    """Title and expression of every query of the dashboard, with Grafana's variables filled in."""
    values = {"$__rate_interval": "10s", "$__interval": "5s", "$model": ".*"}
    found = [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    for name, value in values.items():
        found = [(title, query.replace(name, value)) for title, query in found]
    return found


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The repository's configuration, with the service's address and a shorter interval; it has seen some traffic."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (on Debian: apt install prometheus)")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    picture, _ = golden_picture(served_bundle())
    with serving(ROOT / "models") as url:
        shutil.copy(RULES / "alerts.yml", folder)
        config = (RULES / "prometheus.yml").read_text(encoding="utf-8")
        config = config.replace("foldserve:8000", url.removeprefix("http://")).replace(": 5s", ": 1s")
        (folder / "prometheus.yml").write_text(config, encoding="utf-8")
        command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=log
            )
        try:
            _wait_for(f"http://127.0.0.1:{port}/-/ready", process, folder / "log")
            found = Prometheus(f"http://127.0.0.1:{port}")
            found.wait("up", lambda value: value == 1)
            for _ in range(3):  # `rate` needs two scrapes with something between them
                for _ in range(10):
                    fetch(f"{url}/predict", picture, "image/png")
                time.sleep(1.2)
            found.wait("sum(nv_inference_count)", lambda value: value >= 30)
            yield found
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(log.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_service_is_scraped(prometheus: Prometheus) -> None:
    (target,) = prometheus.ask("targets")["activeTargets"]

    assert (target["health"], target["lastError"]) == ("up", "")
    assert prometheus.ask("query", query="sum(nv_inference_request_success)")["result"][0]["value"][1] == "30"


@pytest.mark.slow
def test_every_rule_evaluates_and_none_fires_for_a_healthy_service(prometheus: Prometheus) -> None:
    time.sleep(1.5)  # a round of evaluation
    (group,) = prometheus.ask("rules")["groups"]

    assert {rule["name"]: (rule["health"], rule["state"]) for rule in group["rules"]} == {
        rule["name"]: ("ok", "inactive") for rule in group["rules"]
    }
    assert len(group["rules"]) >= 7


@pytest.mark.slow
def test_every_query_of_the_dashboard_finds_what_it_is_to_draw(prometheus: Prometheus) -> None:
    empty = []
    for title, query in queries():
        result = prometheus.ask("query", query=query)["result"]
        if not result and not MAY_BE_EMPTY.search(query):
            empty.append(f"{title}: {query}")

    assert len(queries()) > 20
    assert empty == []


def test_the_dashboard_asks_the_data_source_that_is_provisioned() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "foldserve.yml").read_text(encoding="utf-8"))["providers"]
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {source["uid"]}
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert urllib.parse.urlsplit(source["url"]).hostname in compose
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_compose_names_files_that_are_there_and_hardens_every_service() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert not service["image"].endswith(":latest"), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"], volume
    assert compose["services"]["foldserve"]["read_only"] is True
