from typing import Any

import pytest

from anabranch.wire.peer_identity import certificate_identity, properties_identity

SUBJECT = ((("organizationName", "Example"),), (("commonName", "robot"),))
URI, DNS = ("URI", "spiffe://example.org/robot"), ("DNS", "robot.example.org")


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        ({"subject": SUBJECT, "subjectAltName": (DNS, URI)}, "spiffe://example.org/robot"),
        ({"subject": SUBJECT, "subjectAltName": (DNS,)}, "robot"),
        ({"subject": (), "subjectAltName": (("IP Address", "127.0.0.1"), DNS)}, "robot.example.org"),
        ({"subject": ((("organizationName", "Example"),),)}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_certificate_names_its_holder_by_uri_then_common_name_then_dns(
    certificate: dict[str, Any] | None, name: str | None
) -> None:
    assert certificate_identity(certificate) == name


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"peer_uri": [b"spiffe://a"], "x509_common_name": [b"robot"]}, "spiffe://a"),
        ({"x509_common_name": [b"Gr\xc3\xb6\xc3\x9fe"], "peer_dns": [b"robot.example.org"]}, "Größe"),
        ({"peer_dns": [b"robot.example.org"]}, "robot.example.org"),
        ({"transport_security_type": [b"ssl"]}, None),
        ({}, None),
    ],
)
def test_grpcios_properties_name_the_holder_by_the_same_order(
    properties: dict[str, list[bytes]], name: str | None
) -> None:
    assert properties_identity(properties) == name
