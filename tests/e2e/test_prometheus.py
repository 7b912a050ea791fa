"""A real Prometheus scrapes a real server: every panel and rule is answered. Debian: apt-get install prometheus."""

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.peers

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]

DEPLOY = Path(__file__).parents[2] / "deploy"
# What is told only by servers that generate text, have remote variants, sticky units or strangers for callers.
EMPTY = (
    "access_refused",
    "first_token",
    "anabranch_token_seconds",
    "remote_",
    "dropped_copies",
    "sample_ratio",
)


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed: apt-get install prometheus"
    return found


def test_every_alert_fires_on_its_trouble_and_none_on_a_healthy_server() -> None:
    promtool = program("promtool")
    folder = DEPLOY / "prometheus"
    for arguments in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "recording.rules.yml", "alerts.rules.yml"],
        ["test", "rules", "alerts.test.yml"],
    ):
        ran = subprocess.run([promtool, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stdout + ran.stderr


class Prometheus:
    """A Prometheus with the rules of deploy/, on a free port."""

    def __init__(self, target: str, folder: Path, port: int) -> None:
        shutil.copytree(DEPLOY / "prometheus", folder)
        path = folder / "prometheus.yml"
        config = yaml.safe_load(path.read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        path.write_text(yaml.safe_dump(config))
        self.address = f"http://127.0.0.1:{port}"
        self.log = (folder / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={path}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self.log,
            stderr=self.log,
        )

    def ask(self, path: str, **arguments: str) -> Any:
        try:
            with urllib.request.urlopen(
                f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(arguments)}", timeout=30
            ) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # It is not ready.
                raise
            raise AssertionError(f"{arguments}: {error.read().decode()}") from error

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def is_up(self) -> bool:
        try:
            return any(float(sample["value"][1]) == 1 for sample in self.query('up{job="anabranch"}'))
        except OSError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    running: list[Prometheus] = []

    def start(address: str) -> Prometheus:
        target = urllib.parse.urlsplit(address).netloc
        running.append(Prometheus(target, tmp_path / "prometheus", free_port()))
        return running[-1]

    yield start
    for prometheus in running:
        prometheus.stop()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def panels() -> Iterator[tuple[str, str]]:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "anabranch.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "15s").replace("$model", ".*")
            yield panel["title"], expression


def test_every_panel_has_data_and_every_rule_is_evaluated(
    serve: Serve, experiment: Make, wait_until: Wait, watch: Callable[[str], Prometheus]
) -> None:
    served = serve(**{"metrics-port": 0})
    prometheus = watch(served.metrics)
    wait_until(prometheus.is_up, "the target is up")
    steps = [{"mirror": {"percent": 50, "maxDuration": "2s"}}, {"setWeight": 30}, {"pause": {}}]
    served.apply(experiment("held", ["plain", "raising"], steps))
    with served.traffic(clients=3):
        left = [each for each in panels() if not any(word in each[1] for word in EMPTY)]

        def all_have_data() -> bool:
            left[:] = [(title, expression) for title, expression in left if not prometheus.query(expression)]
            return not left

        try:
            wait_until(all_have_data, "every panel has data", 120)
        except AssertionError as error:
            raise AssertionError(f"no data: {left}") from error
        for _, expression in panels():
            prometheus.query(expression)  # Those without data here are at least understood.
        wait_until(
            lambda: prometheus.query("model:anabranch_request_duration_seconds:p99_5m{model='digits'} > 0"),
            "a recorded rule has a value",
        )
        wait_until(
            lambda: any(
                alert["labels"]["alertname"] == "AnabranchCandidateFails"
                for alert in prometheus.ask("alerts")["alerts"]
            ),
            "the candidate that fails is noticed",
            120,
        )
    for group in prometheus.ask("rules")["groups"]:
        for rule in group["rules"]:
            assert rule["health"] == "ok", rule
