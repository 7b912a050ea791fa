"""Send token ids with a standard Open Inference Protocol client: for callers with a tokenizer of their own.

    python examples/infer_tensors.py 127.0.0.1:8001

Needs `pip install 'tritonclient[grpc]'`. Also shows how to choose a variant: by version, by name, by metadata.
"""

import sys

import numpy as np
import tritonclient.grpc as triton

# "a wonderful film, warm and funny." and "a dull, lifeless mess.", as BERT's vocabulary numbers them; the second row is
# padded with zeros.
INPUT_IDS = np.array(
    [
        [101, 1037, 6919, 2143, 1010, 4010, 1998, 6057, 1012, 102],
        [101, 1037, 10634, 1010, 22185, 6752, 1012, 102, 0, 0],
    ],
    dtype=np.int64,
)
ATTENTION_MASK = (INPUT_IDS != 0).astype(np.int64)


def main(address: str) -> None:
    client = triton.InferenceServerClient(address)
    metadata = client.get_model_metadata("minilm")
    print("variants:", ", ".join(metadata.versions))
    show("the experiment chooses", client.infer("minilm", tensors()))
    show("chosen by version", client.infer("minilm", tensors(), model_version="onnx-fp32"))
    show("chosen by name", client.infer("minilm/onnx-fp32", tensors()))
    pinned = {"x-target-variant": "onnx-fp32"}
    show("chosen by metadata", client.infer("minilm", tensors(), headers=pinned))


def tensors() -> list[triton.InferInput]:
    """Both inputs of the model's `tokens` signature."""
    found = []
    for name, array in (("input_ids", INPUT_IDS), ("attention_mask", ATTENTION_MASK)):
        tensor = triton.InferInput(name, list(array.shape), "INT64")
        tensor.set_data_from_numpy(array)
        found.append(tensor)
    return found


def show(how: str, result: triton.InferResult) -> None:
    variant = result.get_response().parameters["invoked_variant"].string_param
    print(f"{how}: {variant} answers {result.as_numpy('logits').argmax(axis=1).tolist()}")


if __name__ == "__main__":
    main(sys.argv[1])
