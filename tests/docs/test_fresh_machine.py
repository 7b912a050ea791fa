"""docs/howto/fresh-machine.md, as somebody follows it who has the repository's address and nothing else of ours.

All of its blocks are one shell's, which begins in an empty folder, with an empty home and without this environment's programs, by
a user who is not root.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "howto" / "fresh-machine.md"
PORTS = ("8001", "8002", "8003", "5432")
BEGIN = """set -euo pipefail
running=()
trap 'for each in "${running[@]}"; do kill "$each" || true; done; wait' EXIT
"""


def script(pages: ModuleType) -> str:
    """The page's blocks, one after the other, as one script."""
    parts = [BEGIN]
    for number, block in enumerate(pages.blocks(PAGE)):
        text = block.text.strip()
        if (name := block.mark("file")) is not None:
            parts.append(f"cat > {name} <<'END'\n{text}\nEND")
        elif block.mark("background") is not None:
            log = f"background-{number}.log"
            parts.append(
                f"{text} > {log} 2>&1 &\nrunning+=($!)\n"
                f"until grep -q '^serving on ' {log}; do kill -0 $! || {{ cat {log}; exit 1; }}; sleep 0.2; done"
            )
        elif (code := block.mark("exit")) is not None:
            parts.append(f"status=0\n({text}) || status=$?\ntest $status -eq {code}")
        elif block.mark("run") is not None:
            parts.append(text)
    return "\n".join(parts) + "\necho followed to its end\n"


@contextlib.contextmanager
def free_ports() -> Iterator[list[int]]:
    """Numbers of as many ports as the page names; others may use the page's own here."""
    with contextlib.ExitStack() as held:
        found = []
        for _ in PORTS:
            each = held.enter_context(socket.socket())
            each.bind(("127.0.0.1", 0))
            found.append(int(each.getsockname()[1]))
    yield found


def environment(home: Path) -> dict[str, str]:
    """What a login has, and where this machine's packages come from."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "http"))}
    settings = Path.home() / ".config" / "pip" / "pip.conf"
    if settings.exists():
        kept["PIP_CONFIG_FILE"] = str(settings)
    python = Path(sys.base_prefix) / "bin"
    path = f"{python}:/usr/local/bin:/usr/bin:/bin"
    return {**kept, "PATH": path, "HOME": str(home), "LC_ALL": "C.UTF-8", "REPOSITORY": str(REPOSITORY)}


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.namespaces
@pytest.mark.timeout(1500)
def test_a_page_leads_from_git_clone_to_two_secured_servers(
    load_module: Callable[[Path], ModuleType], tmp_path: Path
) -> None:
    text = script(load_module(Path(__file__).with_name("test_pages.py")))
    with free_ports() as ports:
        chosen = dict(zip(PORTS, map(str, ports), strict=True))
        text = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda found: chosen[found[1]], text)
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "page.sh").write_text(text)
    # PostgreSQL refuses to run as root, as a person who installs this would not be.
    nobody = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    kept = environment(home)
    try:
        ran = subprocess.run(
            [*nobody, "bash", str(tmp_path / "page.sh")],
            cwd=home,
            env=kept,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1400,
            check=False,
        )
    finally:
        data = home / "anabranch" / "site" / "database"
        if (data / "postmaster.pid").exists():
            os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    assert ran.returncode == 0, f"{ran.stdout[-4000:]}"
    assert ran.stdout.endswith("followed to its end\n")
    assert "token:ada" in ran.stdout, "who applied it is known"
    assert "UNAUTHENTICATED" in ran.stdout, "whoever shows no token is refused"
    shutil.rmtree(home)
