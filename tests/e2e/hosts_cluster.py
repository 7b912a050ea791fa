"""Three routers, two controllers, a PostgreSQL server and a client, each on a host of its own (`data/network.py`). Load by path."""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anabranch.bandit.decision import Verb
from anabranch.router.assignment_id import AssignmentIds
from anabranch.store.access import Role
from anabranch.store.journal import read_records, segments
from anabranch.store.records import Routed
from anabranch.store.sql import open_store
from anabranch.store.tokens import issue
from anabranch.store.verify import verify

TLS = Path(__file__).parents[1] / "contract" / "wire" / "tls"
ROUTERS, CONTROLLERS = ("one", "two", "three"), ("first", "second")
HOSTS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(ROUTERS, ("front", "back")),
    **dict.fromkeys(CONTROLLERS, ("back",)),
    "data": ("back",),
    "user": ("front",),
}
LEASE_S = 3.0
_PORT = 8001
_PAUSE = threading.Event()


class HostTraffic:
    """Requests to every router, from the host of the clients.

    Attributes:
        replies: What was answered, in the order of arrival; see `hosts_traffic.py`.
    """

    def __init__(self, prefix: Sequence[str], token: Path, addresses: Mapping[str, str]) -> None:
        script = Path(__file__).with_name("hosts_traffic.py")
        routers = [f"{name}={address}" for name, address in addresses.items()]
        self.replies: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [*prefix, sys.executable, str(script), str(TLS / "ca.pem"), str(token), *routers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> "HostTraffic":
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask no more, and wait for what was asked."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0
        self._reader.join(60)

    def of(self, router: str, since: int = 0) -> list[dict[str, Any]]:
        """What a router answered, from the reply with this number on."""
        return [reply for reply in self.replies[since:] if reply["router"] == router]

    def split(self, router: str, since: int = 0) -> dict[str, str]:
        """By unit, the variant that a router's last answer came from; without those outside an experiment."""
        return {reply["unit"]: reply["variant"] for reply in self.of(router, since) if reply.get("id")}

    def failures(self, *routers: str, since: int = 0) -> list[dict[str, Any]]:
        """What routers answered with an error."""
        return [reply for name in routers for reply in self.of(name, since) if reply["code"] != "OK"]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.replies.append(json.loads(line))


class Cluster:
    """Everything that runs, and what a person can ask of it.

    Args:
        network: Has `HOSTS`.
        database: Runs on the host `data`.
        served: The class of a running server.
        folder: Of all state.
        models: Folder of the variants.
    """

    def __init__(
        self, network: Any, database: Any, served: Callable[..., Any], folder: Path, models: Path
    ) -> None:
        self.hosts: Mapping[str, Any] = network.hosts
        self.database = database
        self._served, self._folder, self._models = served, folder, models
        name = database.new_database()
        # The test stands beside all networks, and looks into the database by a socket of its machine.
        self.url = database.url(name)
        self._inside = database.url(name, self.hosts["data"].addresses["back"])
        self._key = folder / "shared.key"
        self._key.write_bytes(os.urandom(32))
        self._token = folder / "client.token"
        self._token.write_text(self._issue())
        self._experiments = 0
        self.routers: dict[str, Any] = {}
        self.controllers: dict[str, subprocess.Popen[bytes]] = {}
        for each in ROUTERS:
            self.start_router(each)
        for each in CONTROLLERS:
            self.start_controller(each)

    def start_router(self, name: str) -> None:
        """Start the router of a host, on the state that its last life has left."""
        host = self.hosts[name]
        options = {"store": self._inside, "controller": "elsewhere", "assignment-key": self._key}
        tls = {"tls-cert": TLS / "server.pem", "tls-key": TLS / "server.key"}
        self.routers[name] = self._served(
            self._models,
            self._folder / name,
            within=host.prefix,
            host=host.addresses["front"],
            port=_PORT,
            **options,
            **tls,
        )
        self.routers[name].store_url = self.url

    def start_controller(self, name: str) -> None:
        """Start the controller of a host."""
        options = {"models": self._models, "store": self._inside, "tick": 0.1, "lease": LEASE_S}
        flags = [str(part) for option, value in options.items() for part in (f"--{option}", value)]
        with self._log(name).open("ab") as log:
            self.controllers[name] = subprocess.Popen(
                [*self.hosts[name].prefix, sys.executable, "-m", "anabranch.cli.main", "controller", *flags],
                stdout=log,
                stderr=log,
            )

    def traffic(self) -> HostTraffic:
        """Requests to every router."""
        addresses = {name: f"{self.hosts[name].addresses['front']}:{_PORT}" for name in ROUTERS}
        return HostTraffic(self.hosts["user"].prefix, self._token, addresses)

    def apply(self, document: Mapping[str, Any]) -> str:
        """Apply an experiment under a new name; answers the name."""
        self._experiments += 1
        name = f"held-{self._experiments}"
        self.routers["one"].apply({**document, "metadata": {"name": name}})
        return name

    def ask(self, name: str, verb: Verb) -> None:
        """Ask something of an experiment, and wait until a leading controller has decided on it."""
        store = open_store(self.url)
        before = store.experiment(name).state.decisions
        store.request(name, verb, "", "ada", time.time())
        give_up = time.monotonic() + 90.0
        while store.experiment(name).state.decisions == before:
            assert time.monotonic() < give_up, f"nobody has answered: {verb} {name}"
            _PAUSE.wait(0.05)
        store.close()

    def verifies(self, name: str) -> bool:
        """Whether all decisions about an experiment follow from their evidence."""
        store = open_store(self.url)
        found = verify(store, name)
        store.close()
        return found.matches and bool(found.decisions)

    def leader(self) -> str:
        """The host of the controller that leads; empty while none does."""
        store = open_store(self.url)
        found = store.replicas.leader()
        store.close()
        alive = {f"-{process.pid}-": name for name, process in self.controllers.items()}
        return next((name for part, name in alive.items() if found is not None and part in found.holder), "")

    def log(self, controller: str) -> str:
        """What a controller said."""
        return self._log(controller).read_text()

    def answered_but_not_recorded_once(self, traffic: HostTraffic) -> list[tuple[int, int]]:
        """Answers, by what their ids name, that are not in the journals exactly once."""
        ids = AssignmentIds(self._key.read_bytes())
        said = [ids.open(reply["id"]) for reply in traffic.replies if reply.get("id")]
        recorded = Counter((lane, record.sequence) for lane, record in self._records())
        answered = Counter((assignment.lane, assignment.sequence) for assignment in said)
        assert answered
        return [key for key, times in answered.items() if times != 1 or recorded[key] != 1]

    def recorded(self, name: str) -> int:
        """Requests of an experiment in all journals."""
        number = self.routers["one"].experiment(name).id
        return sum(record.experiment == number for _, record in self._records())

    def counted(self, name: str) -> int:
        """Requests that decisions about an experiment were taken on so far."""
        found: int = self.routers["one"].requests_in_evidence(name)
        return found

    def close(self) -> None:
        """End everything."""
        processes = [*(router.process for router in self.routers.values()), *self.controllers.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)

    def _log(self, controller: str) -> Path:
        return self._folder / f"{controller}.log"

    def _records(self) -> list[tuple[int, Routed]]:
        return [
            (name.lane, record)
            for router in ROUTERS
            for name in segments(self._folder / router / "journal")
            for record, _ in read_records(name.path(self._folder / router / "journal"), 0, limit=10_000_000)
            if isinstance(record, Routed)
        ]

    def _issue(self) -> str:
        now = time.time()
        kept, token = issue(
            name="client",
            role=Role.FEEDBACK,
            models=[],
            now=now,
            expires_s=now + 3600,
            created_by="ada",
            entropy=secrets.token_bytes,
        )
        store = open_store(self.url)
        store.access.save_token(kept, verb="token create", actor="ada", now=now)
        store.close()
        return token
