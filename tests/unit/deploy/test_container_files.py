"""The container files say what they shall; their steps, run without a container, make an installation that works."""

import fnmatch
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
CONTAINER = REPOSITORY / "deploy" / "container"
FILES = ("Containerfile", "Containerfile.cuda")
NOBODY = 65534


def instructions(name: str) -> list[tuple[str, str]]:
    """Instructions of a container file, in order, continued lines joined."""
    text = (CONTAINER / name).read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined.splitlines()]


def stages(name: str) -> list[list[tuple[str, str]]]:
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions(name):
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append((word, rest))
    return found


def in_context() -> Iterator[str]:
    """Files of the repository that reach a build, by the rules of its ignore file: the last that fits decides."""
    rules = [
        line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"
    ]
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    for name in listed.splitlines():
        above = [name, *(str(parent) for parent in Path(name).parents if str(parent) != ".")]
        is_left_out = False
        for rule in rules:
            pattern = rule.removeprefix("!").rstrip("/")
            pattern = pattern.removeprefix("**/") if pattern.startswith("**/") else pattern
            # `*` does not go below a folder; what is below a folder that fits, fits.
            if any(
                part.count("/") == pattern.count("/") and fnmatch.fnmatch(part, pattern) for part in above
            ):
                is_left_out = not rule.startswith("!")
        if not is_left_out:
            yield name


@pytest.mark.parametrize("name", FILES)
def test_only_the_build_has_a_compiler_and_what_runs_is_nobody(name: str) -> None:
    build, final = stages(name)
    assert "gcc" in "".join(rest for word, rest in build if word == "RUN")
    assert [word for word, _ in final if word == "RUN"] == []
    settings = dict(final)
    assert settings["USER"] == "10001:10001"
    assert settings["HEALTHCHECK"].endswith('CMD ["python", "/opt/anabranch/health.py", "127.0.0.1:8001"]')
    assert settings["EXPOSE"] == "8001 8002 8003"
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', settings["LABEL"]))
    assert labels.keys() == {"title", "description", "licenses", "version", "revision"}
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert labels["description"] == project["description"]
    assert labels["licenses"] == project["license"]
    assert ("ARG", f"VERSION={project['version']}") in final


@pytest.mark.parametrize(("name", "runtime"), [("Containerfile", "cpu"), ("Containerfile.cuda", "gpu")])
def test_the_installation_is_the_base_a_runtime_and_two_extras(name: str, runtime: str) -> None:
    installed = [
        rest for word, rest in instructions(name) if word == "RUN" and " install " in rest and "pip" in rest
    ]
    extras = re.findall(r"'\.\[([\w,]+)\]'", installed[0])
    assert extras == [f"{runtime},postgres,otel"]
    assert "--constraint constraints.txt" in installed[0]
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        known = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(extras[0].split(",")) <= known.keys()


def test_both_files_differ_in_the_runtime_only() -> None:
    def steps(name: str) -> list[tuple[str, str]]:
        return [
            (word, rest.replace("[gpu,", "[cpu,").replace(" (CUDA)", ""))
            for word, rest in instructions(name)
            if "NVIDIA" not in rest
        ]

    assert steps(FILES[0]) == steps(FILES[1])


def test_a_build_sees_the_code_and_nothing_else() -> None:
    ignore = (REPOSITORY / ".dockerignore").read_text()
    assert (REPOSITORY / ".containerignore").read_text() == ignore
    found = set(in_context())
    assert {"pyproject.toml", "setup.py", "src/anabranch/__init__.py", "deploy/container/health.py"} <= found
    assert {name.partition("/")[0] for name in found} == {
        *("LICENSE", "MANIFEST.in", "README.md", "constraints.txt", "pyproject.toml", "setup.py", "deploy"),
        *("bandit", "cli", "client", "mesh", "native", "proto", "router", "src", "store", "variants", "wire"),
    }
    assert {name for name in found if name.startswith("deploy/")} == {"deploy/container/health.py"}


def test_images_have_a_version_and_those_of_ours_one_name(
    compose: dict[str, dict[str, dict[str, str]]],
) -> None:
    for name, service in compose["services"].items():
        if service["image"].startswith("$"):
            assert service["image"] == "${ANABRANCH_IMAGE:-anabranch:0.1.0}"
        else:
            assert re.search(r":v?\d+\.\d+", service["image"]), name
    for name in FILES:
        assert "--tag anabranch:0.1.0" in (CONTAINER / name).read_text()


@pytest.mark.slow
def test_the_steps_of_the_build_make_an_installation_that_works() -> None:
    """As a script in an empty folder, by a user without rights; the compiler is this machine's."""
    assert shutil.which("gcc"), "a C compiler is needed: Debian's gcc"
    # Not below tmp_path: only its owner may enter that.
    root = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        _run_steps(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _run_steps(root: Path) -> None:
    for name in in_context():
        (root / "build" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, root / "build" / name, follow_symlinks=False)
    (root / "opt").mkdir()
    build, _ = stages("Containerfile")
    steps = [rest for word, rest in build if word == "RUN" and not rest.startswith("apt-get")]
    assert len(steps) == len([word for word, _ in build if word == "RUN"]) - 1
    script = "\n".join(["set -eux", f"cd {root}/build", *(f"({step})" for step in steps)])
    script = script.replace("/opt/anabranch", f"{root}/opt/anabranch").replace(" /state", f" {root}/state")
    prefix: tuple[str, ...] = ()
    if os.getuid() == 0:
        for path in (root, *root.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    environment = {"PATH": os.environ["PATH"], "HOME": str(root)}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    ran = subprocess.run(
        [*prefix, "sh", "-c", script], env=environment, capture_output=True, text=True, timeout=280
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert "compiled" in ran.stdout
    # Nothing of the folder it was built in is needed.
    shutil.rmtree(root / "build")
    for command in (
        ["bin/anabranch", "version"],
        ["bin/anabranch", "db", "upgrade", "--store", f"sqlite:///{root}/state/anabranch.db"],
        ["bin/python", "-c", "import psycopg, onnxruntime, opentelemetry.sdk"],
    ):
        program, *arguments = command
        ran = subprocess.run(
            [*prefix, str(root / "opt/anabranch" / program), *arguments],
            env={**environment, "ANABRANCH_NATIVE": "on"},
            cwd=root,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
    asked = subprocess.run(
        [*prefix, root / "opt/anabranch/bin/python", root / "opt/anabranch/health.py", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert asked.returncode == 1
    assert "127.0.0.1:1 cannot be asked" in asked.stderr
