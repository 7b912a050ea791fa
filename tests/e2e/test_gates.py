"""Gates, notifications, a change in flight and evidence, on a real server and a real receiver."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from anabranch.router.webhooks.signing import HEADER, is_signed

Serve = Callable[..., Any]
Make = Callable[..., dict[str, Any]]
Wait = Callable[..., None]

KEY = "a key that only the two of them know"
STEPS = [
    {"setWeight": 20},
    {"gate": {"name": "look"}},
    {"analysis": {"minDuration": "1h"}},
    {"promote": {"bake": "200ms", "interval": "200ms"}},
]


class Receiver:
    """Says no until it is opened, and remembers what it was asked and told."""

    def __init__(self) -> None:
        self.is_open = False
        self.got: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                signed = is_signed(self.headers[HEADER] or "", KEY.encode(), body, time.time())
                outer.got.append({"signed": signed, **json.loads(body)})
                is_told = self.path == "/told"
                self.send_response(200 if outer.is_open or is_told else 403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.base = f"http://localhost:{self.server.server_address[1]}"

    def webhook(self, path: str) -> dict[str, Any]:
        return {"url": self.base + path, "secret": {"env": "ANABRANCH_WEBHOOK_TEST"}}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_experiment_goes_through_its_gates_tells_of_it_and_can_be_taken_again(
    serve: Serve, experiment: Make, receiver: Receiver, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANABRANCH_WEBHOOK_HOSTS", "localhost")
    monkeypatch.setenv("ANABRANCH_WEBHOOK_TEST", KEY)
    served = serve()
    gate = {
        "name": "start",
        "type": "confirm-rollout",
        "interval": "1s",
        "webhook": receiver.webhook("/gate"),
    }
    told = {"name": "told", "webhook": receiver.webhook("/told")}
    document = experiment("gated", ["plain"], STEPS, gates=[gate], notifications=[told])
    path = served.state / "gated.json"

    wrong = json.loads(json.dumps(document))
    wrong["spec"]["candidates"] = ["plian"]
    path.write_text(json.dumps(wrong))
    served.cli("apply", "-f", str(path), "--dry-run", code=5)

    path.write_text(json.dumps(document))
    served.cli("apply", "-f", str(path))
    wait_until(lambda: receiver.got, "the gate is asked")
    assert served.phase("gated") == "Pending"
    assert "gate start" in served.cli("describe", "gated")
    receiver.is_open = True
    with served.traffic():
        wait_until(lambda: "look" in served.experiment("gated").state.gates, "the gate of the step waits")
        served.cli("approve", "gated", "look", "--wait")
        document["spec"]["steps"][2] = {"analysis": {"maxDuration": "2m"}}
        path.write_text(json.dumps(document))
        served.cli("apply", "-f", str(path))
        assert served.until_over("gated") == "Promoted", served.cli("describe", "gated")
    wait_until(lambda: any(each.get("phase") == "Promoted" for each in receiver.got), "the promotion is told")

    assert all(each["signed"] for each in receiver.got)
    changes = [(each["from"], each["phase"]) for each in receiver.got if each["type"] == "phase"]
    assert changes[0] == ("Pending", "Progressing")
    assert changes[-1][1] == "Promoted"
    assert "all the same, and all weights" in served.cli("verify", "gated")
    assert "every hash follows" in served.cli("verify", "gated", "--chain")
    proof = served.state / "proof.json"
    proof.write_text(served.cli("certificate", "gated"))
    assert "follows from its evidence" in served.cli("verify", "--certificate", str(proof))
    [tenure] = json.loads(served.cli("history", "--model", "digits", "-o", "json"))
    assert (tenure["variant"], tenure["experiment"]) == ("plain", "gated")
    everything = served.cli("events", "gated", "-o", "json") + served.cli("history", "gated", "-o", "json")
    assert KEY not in everything + served.log.read_text()
