"""Run an experiment from a program: apply it, follow it, and end it, over a server's control port.

    anabranch serve --control-port 8002                             # goes on; the rest in another terminal
    python examples/control.py 127.0.0.1:8002 examples/own-model.yaml 60

Follows the experiment for so many seconds at most, aborts it if it is not over then, and checks every decision. A token
comes from ANABRANCH_TOKEN or the file that ANABRANCH_TOKEN_FILE names; the server's authority from ANABRANCH_TLS_CA.
"""

import os
import sys
from pathlib import Path

from anabranch.client.errors import CallFailed, TookTooLong
from anabranch.client.sync import Client
from anabranch.client.target import Credentials, token_from_environment


def main(server: str, document: str, seconds: float) -> int:
    ca = os.environ.get("ANABRANCH_TLS_CA")
    credentials = Credentials(token=token_from_environment(), ca_file=Path(ca) if ca else None)
    with Client(server, credentials) as client:
        try:
            applied = client.apply(Path(document).read_text(encoding="utf-8"))
            print(f"{applied.name}: {applied.outcome}, as {client.who_am_i().actor}")
            follow(client, applied.name, seconds)
            found = client.verify(applied.name)
        except CallFailed as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    print(f"{found.decisions} decisions, all recomputed: {found.matches}")
    return 0 if found.matches else 1


def follow(client: Client, name: str, seconds: float) -> None:
    try:
        for experiment in client.watch(name, timeout_s=seconds):
            shares = ", ".join(f"{arm} {weight:.0%}" for arm, weight in experiment.weights.items())
            print(f"{experiment.phase}, step {experiment.step} of {experiment.steps}: {shares}")
    except TookTooLong:
        decision = client.wait(client.abort(name))
        print(f"not over after {seconds:g} s: {decision.summary}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
