"""Several hosts on one machine: network namespaces of Linux, joined by bridges, whose cables can be pulled. Load by path.

Everything happens in a user namespace of its own, so that nothing of it needs root or touches the machine's network: a
`switch` with a bridge for each network, and a namespace for each host. Who runs in one is root there and the present user
outside. A namespace lives as long as its `cat`, which ends with this process.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_PAUSE = threading.Event()
_UNSHARE = ("unshare", "--user", "--map-root-user", "--net")


def why_not() -> str:
    """Why this machine has no such networks; empty where it has."""
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"there is no `{program}` (Debian: apt-get install iproute2 util-linux)"
    made = subprocess.run(
        [*_UNSHARE, "ip", "link", "add", "probe", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        return f"the kernel forbids network namespaces, or bridges in them: {made.stderr.strip()}"
    return ""


class Host:
    """A host and its cables.

    Attributes:
        name: Unique, at most six characters.
        addresses: By network.
    """

    def __init__(self, name: str, network: "Network", addresses: Mapping[str, str]) -> None:
        self.name = name
        self.addresses = addresses
        self._network = network
        self._room = network.open_room()
        self._slow: dict[str, subprocess.Popen[str]] = {}

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put in front of a command that shall run on this host."""
        return _within(self._room.pid)

    @property
    def plain_prefix(self) -> tuple[str, ...]:
        """The same, for what refuses to run as root."""
        return (*self.prefix, "unshare", "--user", "--map-user=1000", "--map-group=1000")

    def plug(self, *networks: str) -> None:
        """Put its cables in."""
        for each in networks or self.addresses:
            self._network.run("ip", "link", "set", self._port(each), "master", each)

    def pull(self, *networks: str) -> None:
        """Pull its cables out: what is sent from now on is lost without a word."""
        for each in networks or self.addresses:
            self._network.run("ip", "link", "set", self._port(each), "nomaster")

    def slow_down(self, network: str, delay_ms: float) -> None:
        """Let everything on a network take longer to come here, and to leave; for the rest of the test."""
        end, port = self._port(network), f"{self.name}-{network[:3]}-s"
        self._network.run("ip", "link", "set", end, "nomaster")
        self._network.run("ip", "link", "add", port, "type", "veth", "peer", "name", f"{port}x")
        for each in (port, f"{port}x"):
            self._network.run("ip", "link", "set", each, "up")
        script = Path(__file__).with_name("slow_link.py")
        carrier = subprocess.Popen(
            [*self._network.prefix, sys.executable, str(script), end, f"{port}x", str(delay_ms)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert carrier.stdout is not None
        assert carrier.stdout.readline() == "carries\n"
        self._slow[network] = carrier
        self.plug(network)

    def lose(self) -> None:
        """As when its power fails: nothing leaves it any more, not even an end of a connection, and nothing runs."""
        self.pull()
        give_up = time.monotonic() + 30.0
        while found := self._processes():
            assert time.monotonic() < give_up, f"{self.name} still runs {found}"
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _PAUSE.wait(0.02)

    def close(self) -> None:
        """End what carries its frames."""
        for carrier in self._slow.values():
            carrier.kill()
            carrier.wait()
            assert carrier.stdout is not None
            carrier.stdout.close()

    def wire_up(self) -> None:
        """Make its interfaces; called once by the network."""
        self.run("ip", "link", "set", "lo", "up")
        for each, address in self.addresses.items():
            here, there = f"{each}0", self._cable(each)
            pair = ("ip", "link", "add", there, "type", "veth", "peer", "name", here)
            self._network.run(*pair, "netns", str(self._room.pid))
            self._network.run("ip", "link", "set", there, "up")
            self.run("ip", "address", "add", f"{address}/24", "dev", here)
            self.run("ip", "link", "set", here, "up")
        self.plug()

    def run(self, *command: str) -> None:
        """Run a command here to its end."""
        subprocess.run([*self.prefix, *command], check=True)

    def _cable(self, network: str) -> str:
        return f"{self.name}-{network[:3]}"

    def _port(self, network: str) -> str:
        """What of it is in the switch: the cable, or the far end of what slows it down."""
        return f"{self._cable(network)}-s" if network in self._slow else self._cable(network)

    def _processes(self) -> list[int]:
        mine = os.readlink(f"/proc/{self._room.pid}/ns/net")
        found = []
        for path in Path("/proc").glob("[0-9]*/ns/net"):
            with contextlib.suppress(OSError):
                pid = int(path.parts[2])
                if os.readlink(path) == mine and pid != self._room.pid and _is_running(pid):
                    found.append(pid)
        return found


class Network:
    """A switch with some networks, and hosts on them.

    Args:
        hosts: By name, the networks that each is on.
    """

    def __init__(self, hosts: Mapping[str, Sequence[str]]) -> None:
        self._rooms: list[subprocess.Popen[bytes]] = []
        self._switch = self.open_room()
        networks = sorted({each for plugged in hosts.values() for each in plugged})
        for each in networks:
            self.run("ip", "link", "add", each, "type", "bridge")
            self.run("ip", "link", "set", each, "up")
        self.hosts: dict[str, Host] = {}
        for number, (name, plugged) in enumerate(hosts.items(), start=1):
            addresses = {each: f"10.{90 + networks.index(each)}.0.{number}" for each in plugged}
            self.hosts[name] = Host(name, self, addresses)
            self.hosts[name].wire_up()

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put in front of a command that shall run in the switch."""
        return _within(self._switch.pid)

    def run(self, *command: str) -> None:
        """Run a command in the switch to its end."""
        subprocess.run([*self.prefix, *command], check=True)

    def open_room(self) -> "subprocess.Popen[bytes]":
        """A network namespace; the first one brings the user namespace that all of them belong to."""
        command = [*self.prefix, "unshare", "--net", "cat"] if self._rooms else [*_UNSHARE, "cat"]
        outside = {os.readlink("/proc/self/ns/net")}
        outside |= {os.readlink(f"/proc/{room.pid}/ns/net") for room in self._rooms}
        room = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._rooms.append(room)
        # An echo says that it is there.
        assert room.stdin is not None
        assert room.stdout is not None
        room.stdin.write(b"\n")
        room.stdin.flush()
        assert room.stdout.read(1) == b"\n", "no network namespace was made"
        assert os.readlink(f"/proc/{room.pid}/ns/net") not in outside
        return room

    def close(self) -> None:
        """Let everything end."""
        for host in self.hosts.values():
            host.close()
        for room in self._rooms:
            assert room.stdin is not None
            assert room.stdout is not None
            room.stdin.close()
            room.wait(10)
            room.stdout.close()


def _within(pid: int) -> tuple[str, ...]:
    return ("nsenter", "--target", str(pid), "--user", "--net", "--preserve-credentials")


def _is_running(pid: int) -> bool:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text.rpartition(")")[2].split()[0] not in "ZX"
