"""The manifests for Kubernetes fit together; with `kubectl` and the schemas of its kinds, they are valid."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Document = dict[str, Any]
SECRETS = {
    "tls.crt": "anabranch-tls",
    "tls.key": "anabranch-tls",
    "ca.crt": "anabranch-tls",
    "assignment.key": "anabranch-assignment-key",
    "database/pg_service.conf": "anabranch-database",
    "database-owner/pg_service.conf": "anabranch-database-owner",
}


def pods(documents: list[Document]) -> dict[str, Document]:
    """Templates of pods by the name of what makes them."""
    return {
        each["metadata"]["name"]: each["spec"]["template"]
        for each in documents
        if "template" in each.get("spec", {})
    }


def of_kind(documents: list[Document], kind: str) -> list[Document]:
    found = [each for each in documents if each["kind"] == kind]
    assert found, f"no {kind}"
    return found


def kustomization(folder: Path) -> Document:
    read: Document = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return read


def test_every_manifest_is_in_its_kustomization(deploy: Path) -> None:
    for folder in (deploy / "kubernetes" / "base", deploy / "kubernetes" / "overlays" / "example"):
        read = kustomization(folder)
        named = {*read["resources"], *(each["path"] for each in read.get("patches", ()))}
        there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in named if "/" not in name} == there


def test_every_pod_keeps_to_the_restricted_profile(base: list[Document]) -> None:
    assert pods(base).keys() == {"anabranch-router", "anabranch-controller", "anabranch-migrate"}
    for name, template in pods(base).items():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] == 10001, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name


def test_every_volume_is_mounted_and_every_mount_has_a_volume(base: list[Document]) -> None:
    (routers,) = of_kind(base, "StatefulSet")
    claimed = {each["metadata"]["name"] for each in routers["spec"]["volumeClaimTemplates"]}
    for name, template in pods(base).items():
        (container,) = template["spec"]["containers"]
        volumes = {each["name"] for each in template["spec"]["volumes"]}
        volumes |= claimed if name == "anabranch-router" else set()
        assert {each["name"] for each in container["volumeMounts"]} == volumes, name


def test_every_file_that_a_router_is_given_is_below_a_mount(
    base: list[Document], parse_command: Callable[[list[str]], Document]
) -> None:
    (container,) = pods(base)["anabranch-router"]["spec"]["containers"]
    given = parse_command(container["args"])
    mounts = {Path(each["mountPath"]) for each in container["volumeMounts"]}
    for option in ("tls_cert", "tls_key", "assignment_key"):
        assert Path(given[option]).parent in mounts
    assert Path(given["state"]) in mounts
    (config,) = kustomization(Path(__file__).parents[3] / "deploy/kubernetes/base")["configMapGenerator"]
    (service_file,) = (Path(each.partition("=")[2]) for each in config["literals"] if "PGSERVICEFILE" in each)
    for name, template in pods(base).items():
        assert service_file.parent in {
            Path(each["mountPath"]) for each in template["spec"]["containers"][0]["volumeMounts"]
        }, name
        assert template["spec"]["containers"][0]["envFrom"] == [{"configMapRef": {"name": config["name"]}}]


def test_every_selector_finds_the_pods_it_means(base: list[Document]) -> None:
    labels = {name: template["metadata"]["labels"] for name, template in pods(base).items()}

    def found(selector: Document) -> set[str]:
        return {name for name, has in labels.items() if selector.items() <= has.items()}

    for document in base:
        spec, name = document["spec"], document["metadata"]["name"]
        match document["kind"]:
            case "Service":
                assert found(spec["selector"]) == {"anabranch-router"}, name
            case "PodDisruptionBudget" | "StatefulSet" | "Deployment":
                assert found(spec["selector"]["matchLabels"]) == {name}
            case "NetworkPolicy":
                meant = {name} if name in labels else labels.keys()
                assert found(spec["podSelector"]["matchLabels"]) == meant
    for name, template in pods(base).items():
        for spread in template["spec"].get("topologySpreadConstraints", ()):
            assert found(spread["labelSelector"]["matchLabels"]) == {name}


def test_ports_are_those_of_the_command_line(
    base: list[Document], parse_command: Callable[[list[str]], Document]
) -> None:
    (container,) = pods(base)["anabranch-router"]["spec"]["containers"]
    given = parse_command(container["args"])
    opened = {given["port"], given["control_port"], given["metrics_port"]}
    names = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert set(names.values()) == opened
    for service in of_kind(base, "Service"):
        for port in service["spec"]["ports"]:
            assert names[port["targetPort"]] == port["port"]
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(base, "NetworkPolicy")}
    let_in = {port["port"] for rule in policies["anabranch-router"]["ingress"] for port in rule["ports"]}
    assert let_in == opened
    assert all(rule["from"] for rule in policies["anabranch-router"]["ingress"])
    assert "ingress" not in policies["anabranch-default"]
    for probe in ("startupProbe", "readinessProbe"):
        assert f"127.0.0.1:{given['port']}" in container[probe]["exec"]["command"]
    assert names[container["livenessProbe"]["httpGet"]["port"]] == given["metrics_port"]
    (monitor,) = of_kind(base, "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    monitored = monitor["spec"]["selector"]["matchLabels"].items()
    (service,) = (s for s in of_kind(base, "Service") if monitored <= s["metadata"]["labels"].items())
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_autoscaler_owns_the_number_of_routers(base: list[Document]) -> None:
    (scaler,) = of_kind(base, "HorizontalPodAutoscaler")
    (routers,) = of_kind(base, "StatefulSet")
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (routers["kind"], routers["metadata"]["name"])
    assert "replicas" not in routers["spec"]
    assert scaler["spec"]["minReplicas"] >= 2
    (controllers,) = of_kind(base, "Deployment")
    assert controllers["spec"]["replicas"] == 2
    budgets = {each["metadata"]["name"] for each in of_kind(base, "PodDisruptionBudget")}
    assert budgets == {routers["metadata"]["name"], controllers["metadata"]["name"]}


def test_the_overlay_makes_every_secret_and_volume_that_the_base_names(
    base: list[Document], deploy: Path
) -> None:
    overlay = deploy / "kubernetes" / "overlays" / "example"
    made = {
        file.removeprefix("secrets/"): each["name"]
        for each in kustomization(overlay)["secretGenerator"]
        for file in each["files"]
    }
    assert made == SECRETS
    volumes = [volume for template in pods(base).values() for volume in template["spec"]["volumes"]]
    assert {each["secret"]["secretName"] for each in volumes if "secret" in each} == set(SECRETS.values())
    claim = yaml.safe_load((overlay / "models.yaml").read_text())["metadata"]["name"]
    claims = {
        each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each
    }
    assert claims == {claim}


def test_nothing_of_the_example_works_before_it_is_replaced(base: list[Document], deploy: Path) -> None:
    overlay = deploy / "kubernetes" / "overlays" / "example"
    (image,) = kustomization(overlay)["images"]
    # .invalid is nobody's (RFC 2606): a pull of it fails.
    assert image["newName"].startswith("registry.invalid/")
    for name, template in pods(base).items():
        assert [each["image"] for each in template["spec"]["containers"]] == [image["name"]], name
    assert "/secrets/" in (deploy.parent / ".gitignore").read_text()


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("kubectl")
    assert program, "kubectl is not installed"
    return subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, timeout=120)


@pytest.mark.peers
def test_kustomize_builds_the_overlay_only_with_its_secrets_and_kubernetes_knows_the_result(
    deploy: Path, tmp_path: Path
) -> None:
    python = deploy.parent / ".cache" / "deploy" / "bin" / "python"
    assert python.exists(), "its schemas are not installed: make deploy-check"
    shutil.copytree(deploy / "kubernetes", tmp_path / "kubernetes", ignore=shutil.ignore_patterns("secrets"))
    overlay = tmp_path / "kubernetes" / "overlays" / "example"
    refused = build(overlay)
    assert refused.returncode != 0
    assert "secrets/tls.crt" in refused.stderr
    for name in SECRETS:
        (overlay / "secrets" / name).parent.mkdir(parents=True, exist_ok=True)
        (overlay / "secrets" / name).write_text("-")
    built = build(overlay)
    assert built.returncode == 0, built.stderr
    documents = list(yaml.safe_load_all(built.stdout))
    assert len(documents) == 18
    # The operator's own kind has no schema in Kubernetes.
    known = [each for each in documents if each["kind"] != "ServiceMonitor"]
    (tmp_path / "built.yaml").write_text(yaml.safe_dump_all(known))
    for release in ("1.30", "1.33", "1.37"):
        checked = subprocess.run(
            [
                python,
                "-m",
                "kubernetes_validate",
                "--strict",
                "--kubernetes-version",
                release,
                tmp_path / "built.yaml",
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert (checked.stdout + checked.stderr).count("passed for resource") == len(known)
