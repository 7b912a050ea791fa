"""Traffic to several routers from a host of its own, over TLS with a token: a JSON line a reply, until its input ends.

python hosts_traffic.py CA TOKEN_FILE NAME=ADDRESS...
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np

from anabranch.proto import open_inference_pb2 as pb
from anabranch.proto.tensors import encode_inputs

UNITS = 40
_PAUSE = threading.Event()


def ask(name: str, address: str, ca: bytes, token: str, stop: threading.Event) -> None:
    """Ask a router for one user after the other."""
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca), options=options)
    infer: grpc.UnaryUnaryMultiCallable[pb.ModelInferRequest, pb.ModelInferResponse] = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    request = pb.ModelInferRequest(model_name="digits")
    encode_inputs(request, {"pixels": np.zeros((1, 64), np.float32)})
    number = 0
    while not stop.is_set():
        unit = f"user-{number % UNITS}"
        metadata = (("authorization", f"Bearer {token}"), ("x-user-id", unit))
        line = {"router": name, "unit": unit, "begun_s": time.monotonic()}
        try:
            said = infer(request, metadata=metadata, timeout=10).parameters
            line |= {"code": "OK", "variant": said["invoked_variant"].string_param}
            line["id"] = said["assignment_id"].string_param if "assignment_id" in said else ""
        except grpc.RpcError as error:
            line |= {"code": error.code().name, "detail": error.details()}
            _PAUSE.wait(0.05)
        # In one piece: others write lines too.
        os.write(1, json.dumps(line).encode() + b"\n")
        number += 1
        # Enough to see by, and not so much that the hosts, which are one machine, have time for nothing else.
        _PAUSE.wait(0.005)
    channel.close()


def main() -> None:
    """Ask all of them at once."""
    ca, token = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_text().strip()
    stop = threading.Event()
    routers = [argument.partition("=") for argument in sys.argv[3:]]
    threads = [
        threading.Thread(target=ask, args=(name, address, ca, token, stop)) for name, _, address in routers
    ]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
