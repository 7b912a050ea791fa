"""Ask a language model with a standard client, and print its answer as it is generated.

    python examples/stream_text.py 127.0.0.1:8001 "What is the capital of France?" [--model smollm2] [--max-tokens 64]

Needs `pip install 'tritonclient[grpc]'`. What comes first and last goes to the standard error: the time to the first token,
the variant that answered, and why the answer ended.
"""

import argparse
import json
import queue
import sys
import time

import numpy as np
import tritonclient.grpc as triton

Heard = tuple[triton.InferResult | None, Exception | None]


def main(address: str, text: str, model: str, max_tokens: int) -> None:
    client = triton.InferenceServerClient(address)
    heard: queue.Queue[Heard] = queue.Queue()
    client.start_stream(callback=lambda result, error: heard.put((result, error)))
    asked = time.perf_counter()
    sampling = json.dumps({"max_tokens": max_tokens, "temperature": 0})
    client.async_stream_infer(model, [_tensor("text_input", text), _tensor("sampling_parameters", sampling)])
    is_first = True
    while True:
        result, error = heard.get(timeout=120)
        if error is not None or result is None:
            raise SystemExit(f"refused: {error}")
        said = result.get_response().parameters
        if is_first:
            waited_ms = 1e3 * (time.perf_counter() - asked)
            print(f"{said['invoked_variant'].string_param}: {waited_ms:.0f} ms", file=sys.stderr)
            is_first = False
        print(result.as_numpy("text_output")[0].decode(), end="", flush=True)
        if said["triton_final_response"].bool_param:
            break
    print()
    print(result.as_numpy("finish_reason")[0].decode(), file=sys.stderr)
    client.stop_stream()


def _tensor(name: str, text: str) -> triton.InferInput:
    tensor = triton.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    return tensor


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("text")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--max-tokens", type=int, default=64)
    given = parser.parse_args()
    main(given.address, given.text, given.model, given.max_tokens)
