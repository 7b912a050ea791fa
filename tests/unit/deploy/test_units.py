"""The units of systemd are fenced in, and no file of `deploy/` holds a secret."""

import re
import subprocess
from pathlib import Path

import pytest

Units = dict[str, list[tuple[str, str]]]
# What must be there whoever edits a unit; `systemd-analyze security` weighs all of it.
FENCES = {
    "CapabilityBoundingSet": "",
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "ProtectHome": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectSystem": "strict",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
}
SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|anabranch_[0-9a-f]{12}_[A-Za-z0-9_-]{43}|://[^/\s:@]+:[^/\s@]+@"
    r"|(?i:password)(=[^\s/$,]|: [^\s/${])"
)


def test_every_unit_is_fenced_in(units: Units) -> None:
    assert units.keys() == {"anabranch.service", "anabranch-controller.service"}
    for name, settings in units.items():
        assert FENCES.items() <= dict(settings).items(), name
        assert ("SystemCallFilter", "@system-service") in settings, name


def test_both_units_have_the_same_fences(units: Units) -> None:
    def fences(settings: list[tuple[str, str]]) -> list[tuple[str, str]]:
        names = [name for name, _ in settings]
        return settings[names.index("CapabilityBoundingSet") : names.index("WantedBy")]

    assert fences(units["anabranch.service"]) == fences(units["anabranch-controller.service"])


def test_the_controller_reads_the_database_from_a_credential(units: Units) -> None:
    settings = units["anabranch-controller.service"]
    (credential,) = (value for name, value in settings if name == "LoadCredential")
    file, _, source = credential.partition(":")
    assert source == "/etc/anabranch/pg_service.conf"
    assert ("Environment", f"PGSERVICEFILE=%d/{file}") in settings


def test_no_file_holds_a_secret(deploy: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=deploy, check=True, capture_output=True, text=True)
    names = listed.stdout.splitlines()
    assert len(names) > 20
    for name in names:
        assert "secrets/" not in name
        assert not SECRETS.search((deploy / name).read_text()), name


@pytest.mark.parametrize(
    "text", ["postgresql://a:b@c/d", "password=hunter2", "password: x", "-----BEGIN PRIVATE KEY-----"]
)
def test_a_secret_would_be_found(text: str) -> None:
    assert SECRETS.search(text)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["anabranch.service", "anabranch-controller.service"])
def test_systemd_knows_every_setting_and_finds_the_unit_well_fenced(deploy: Path, name: str) -> None:
    verified = subprocess.run(
        ["systemd-analyze", "verify", deploy / name], capture_output=True, text=True, timeout=60
    )
    said = (verified.stdout + verified.stderr).strip().splitlines()
    # The program is not installed here; nothing else may be wrong.
    assert [line for line in said if "is not executable" not in line] == []
    weighed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", deploy / name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert weighed.returncode == 0, weighed.stdout[-400:]
