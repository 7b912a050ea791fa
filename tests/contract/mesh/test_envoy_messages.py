"""Our messages against Envoy's own: every field has its number and its type. `make envoy` installs those."""

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers

REPOSITORY = Path(__file__).parents[3]
PYTHON = REPOSITORY / ".cache" / "envoy" / "bin" / "python"
# Reads, by full name, the number and the wire type of every field of a message of Envoy's.
READER = """
import importlib, json, pkgutil, sys
import envoy, google.rpc.status_pb2, google.protobuf.any_pb2
from google.protobuf import descriptor_pool
for name in json.load(sys.stdin):
    package = name.rpartition(".")[0]
    while not package.rpartition(".")[2].startswith("v"):
        package = package.rpartition(".")[0]
        if not package:
            break
    if package:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if module.name.endswith("_pb2"):
                importlib.import_module(f"{package}.{module.name}")
pool = descriptor_pool.Default()
found = {}
for name in json.loads(sys.argv[1]):
    fields = pool.FindMessageTypeByName(name).fields
    found[name] = {field.name: [field.number, field.type, field.is_repeated] for field in fields}
print(json.dumps(found))
"""


def test_numbers_and_types_are_envoys() -> None:
    assert PYTHON.is_file(), f"{PYTHON} is missing: `make envoy` installs it"
    from anabranch.proto import envoy_pb2

    text = (REPOSITORY / "proto" / "envoy.proto").read_text()
    names = {ours: theirs for theirs, ours in re.findall(r"// ([\w.]+).*\nmessage (\w+)", text)}
    ours = {
        names[name]: {field.name: [field.number, field.type, field.is_repeated] for field in message.fields}
        for name, message in envoy_pb2.DESCRIPTOR.message_types_by_name.items()
    }
    assert len(ours) == len(names)
    done = subprocess.run(
        [PYTHON, "-c", READER, json.dumps(sorted(ours))],
        input=json.dumps(sorted(ours)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    wrong = {
        f"{name}.{field}": (found, theirs[name].get(field))
        for name, fields in ours.items()
        for field, found in fields.items()
        if theirs[name].get(field) != found
    }
    assert wrong == {}
