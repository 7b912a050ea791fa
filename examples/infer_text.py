"""Send texts with a standard Open Inference Protocol client; the tokenizer runs behind the router.

    python examples/infer_text.py 127.0.0.1:8001 "A quiet, patient film." "I left after an hour."

Needs `pip install 'tritonclient[grpc]'`. Prints a line a text: its class, the variant that answered, and the
assignment id to send feedback with (a dash when no experiment is going on).
"""

import sys
from concurrent.futures import Future

import numpy as np
import tritonclient.grpc as triton


def main(address: str, texts: list[str]) -> None:
    client = triton.InferenceServerClient(address)
    # All of them are under way at once; texts that arrive together share a batch.
    answers = [ask(client, text) for text in texts]
    for text, answer in zip(texts, answers, strict=True):
        result = answer.result(timeout=30)
        said = result.get_response().parameters
        variant = said["invoked_variant"].string_param
        assignment = said["assignment_id"].string_param if "assignment_id" in said else "-"
        print(int(result.as_numpy("logits")[0].argmax()), variant, assignment, text, sep="\t")


def ask(client: triton.InferenceServerClient, text: str) -> "Future[triton.InferResult]":
    """Begin one request."""
    tensor = triton.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    answer: Future[triton.InferResult] = Future()

    def done(result: triton.InferResult | None, error: Exception | None) -> None:
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)

    client.async_infer("minilm", [tensor], callback=done, client_timeout=30)
    return answer


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
