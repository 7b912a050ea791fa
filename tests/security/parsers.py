"""Every parser of bytes from outside, what it promises to raise, and bytes near to what it takes. No test: load it by its path.

As a program it fuzzes for as long as it is told, with coverage where `atheris` is installed and without it otherwise:

    python tests/security/parsers.py gguf 600
"""

import contextlib
import random
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType
from typing import Any

import numpy as np
import pyarrow
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from pyarrow import parquet

from anabranch.cli.failures import CommandFailed
from anabranch.cli.feedback.rows import read_rows
from anabranch.mesh.access_log import UnreadableEntry, read_assigned, status_of
from anabranch.proto import control_pb2, envoy_pb2, feedback_pb2
from anabranch.proto import open_inference_pb2 as oip
from anabranch.proto.outline import split
from anabranch.proto.scan import ScanError, fields, scan
from anabranch.proto.tensors import TensorError, decode_inputs, encode_inputs
from anabranch.router.access.identities import InvalidIdentities, read_identities
from anabranch.router.assignment_id import Assignment, AssignmentIds, ForgedAssignment
from anabranch.store.document import InvalidDocument, parse, read_document
from anabranch.store.journal import CorruptSegment, JournalWriter, SegmentName, read_records
from anabranch.store.records import Flag, Routed, UnreadableRecord
from anabranch.store.tokens import BadToken, find_token
from anabranch.variants.errors import VariantError
from anabranch.variants.llm.gguf_file import GgufFile
from anabranch.variants.manifest import MANIFEST, read_manifest
from anabranch.variants.safetensors_file import load_tensors, save_tensors
from anabranch.wire.grpc_framing import FramingError, MessageReader, decode_metadata, frame, parse_timeout

KEY = bytes(range(32))
REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Parser:
    """One parser.

    Attributes:
        parse: Parses bytes; may write below a folder.
        raises: What it promises to raise.
        seeds: Bytes that it takes.
    """

    parse: Callable[[bytes, Path], object]
    raises: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def try_it(self, data: bytes, folder: Path) -> bool:
        """Whether the bytes are taken; what is not promised is raised on."""
        try:
            self.parse(data, folder)
        except self.raises:
            return False
        return True


def near(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Any bytes, and seeds with a part replaced."""

    def spliced(seed: bytes, at: int, lost: int, put: bytes) -> bytes:
        at %= len(seed) + 1
        return seed[:at] + put + seed[at + lost :]

    changed = st.builds(
        spliced, st.sampled_from(seeds), st.integers(0, 1 << 20), st.integers(0, 16), st.binary(max_size=16)
    )
    return changed | st.binary(max_size=400)


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def gguf(data: bytes, folder: Path) -> None:
    file = GgufFile(written(folder, "m.gguf", data))
    for name in file.tensors:
        file.matrix(name)


def gguf_seed() -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 2)
    head += text("general.alignment") + struct.pack("<II", 4, 32)
    head += text("names") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    head += text("w") + struct.pack("<IQQIQ", 2, 32, 2, 2, 0)
    head += text("f") + struct.pack("<IQIQ", 1, 4, 0, 64)
    return head + bytes(-len(head) % 32) + bytes(64) + bytes(16)


def safetensors_seed() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.safetensors"
        save_tensors(path, {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.int8)})
        return path.read_bytes()


def journal(data: bytes, folder: Path) -> list[Any]:
    path = SegmentName(lane=1, index=0).path(folder)
    return list(read_records(written(folder, path.name, data), 0))


def journal_seed() -> bytes:
    with TemporaryDirectory() as folder:
        writer = JournalWriter(Path(folder), 1)
        for sequence in range(3):
            writer.append(
                Routed(
                    at_s=1.0,
                    experiment=1,
                    epoch=1,
                    arm=0,
                    flags=Flag.EVIDENCE,
                    status=0,
                    latency_ms=1.0,
                    queue_ms=0.0,
                    compute_ms=1.0,
                    batch_rows=1,
                    propensity=0.5,
                    sequence=sequence,
                    unit=bytes(16),
                )
            )
        writer.close()
        return SegmentName(lane=1, index=0).path(Path(folder)).read_bytes()


def inference(data: bytes, _folder: Path) -> None:
    fields(data)
    scan(data)
    split(data)


def infer_request() -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="m", id="1")
    encode_inputs(request, {"x": np.ones((1, 2), np.float32), "t": np.array([b"text"], object)})
    request.parameters["priority"].int64_param = 1
    return request


def tensors(data: bytes, _folder: Path) -> None:
    decode_inputs(oip.ModelInferRequest.FromString(data))


def framing(data: bytes, _folder: Path) -> None:
    for encoding in (b"gzip", None):
        reader = MessageReader(1 << 16, encoding)
        for at in range(0, len(data), 7):
            reader.feed(data[at : at + 7])
    with contextlib.suppress(FramingError):
        parse_timeout(data[:12])
    with contextlib.suppress(FramingError):
        decode_metadata([(b"x-bin", data), (b"x", data[:40])])


def framing_seed() -> bytes:
    return frame(b"hello")


def manifest(data: bytes, folder: Path) -> None:
    written(folder, MANIFEST, data)
    read_manifest(folder)


def identities(data: bytes, folder: Path) -> None:
    read_identities(written(folder, "identities.yaml", data))


def document(data: bytes, _folder: Path) -> None:
    parse(read_document(data.decode("utf-8", "replace")))


def control(data: bytes, _folder: Path) -> None:
    for message in (control_pb2.ApplyRequest, control_pb2.CommandRequest, control_pb2.WatchRequest):
        message.FromString(data)


IDS = AssignmentIds(KEY)
SEALED = IDS.seal(
    Assignment(experiment=1, epoch=1, arm=1, flags=Flag.EVIDENCE, lane=1, sequence=1, top1=2, propensity=0.5)
)


def envoy_entries(data: bytes, _folder: Path) -> None:
    batch = envoy_pb2.StreamAccessLogsMessage.FromString(data)
    for entry in batch.http_logs.log_entry:
        status_of(entry)
        said = entry.common_properties.metadata.filter_metadata.get("anabranch")
        if said is not None and "record" in said.fields:
            with contextlib.suppress(UnreadableEntry):
                read_assigned(said.fields["record"].string_value)


def envoy_seed() -> bytes:
    batch = envoy_pb2.StreamAccessLogsMessage()
    entry = batch.http_logs.log_entry.add()
    entry.response.response_trailers["grpc-status"] = "0"
    said = entry.common_properties.metadata.filter_metadata["anabranch"]
    said.update({"variant": "a", "record": ENVOY_RECORD.decode()})
    return batch.SerializeToString()


def rows(ending: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        for _ in read_rows(written(folder, f"rows.{ending}", data), id_column="assignment_id", metric="m"):
            pass

    return read


def parquet_seed() -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"assignment_id": ["abc"], "correct": [True]}), sink)
    return bytes(sink.getvalue())


ENVOY_RECORD = b"1 2 0 1 3 4 5 0.5 " + bytes(16).hex().encode()

PARSERS = {
    "Envoy's entries": Parser(parse=envoy_entries, raises=(DecodeError,), seeds=(envoy_seed(),)),
    "Envoy's record": Parser(
        parse=lambda data, _folder: read_assigned(data.decode("utf-8", "replace")),
        raises=(UnreadableEntry,),
        seeds=(ENVOY_RECORD,),
    ),
    "rows of CSV": Parser(
        parse=rows("csv"),
        raises=(CommandFailed,),
        seeds=(b"assignment_id,correct,value\nabc,true,\ndef,,0.5\n",),
    ),
    "rows of Parquet": Parser(parse=rows("parquet"), raises=(CommandFailed,), seeds=(parquet_seed(),)),
    "rows of JSON": Parser(
        parse=rows("jsonl"),
        raises=(CommandFailed,),
        seeds=(b'{"assignment_id": "abc", "correct": true}\n{"assignment_id": "d", "value": 1e3}\n',),
    ),
    "assignment id": Parser(
        parse=lambda data, _folder: IDS.open(data.decode("utf-8", "replace")),
        raises=(ForgedAssignment,),
        seeds=(SEALED.encode(),),
    ),
    "control messages": Parser(
        parse=control,
        raises=(DecodeError,),
        seeds=(control_pb2.WatchRequest(name="x", with_state=True).SerializeToString(),),
    ),
    "document": Parser(
        parse=document,
        raises=(InvalidDocument,),
        seeds=((REPOSITORY / "examples" / "own-model.yaml").read_bytes(),),
    ),
    "feedback message": Parser(
        parse=lambda data, _folder: feedback_pb2.SubmitRequest.FromString(data),
        raises=(DecodeError,),
        seeds=(
            feedback_pb2.SubmitRequest(
                outcomes=[feedback_pb2.Outcome(assignment_id=SEALED, label=1)]
            ).SerializeToString(),
        ),
    ),
    "gguf": Parser(parse=gguf, raises=(VariantError,), seeds=(gguf_seed(),)),
    "gRPC framing": Parser(parse=framing, raises=(FramingError,), seeds=(framing_seed(),)),
    "identities": Parser(
        parse=identities,
        raises=(InvalidIdentities,),
        seeds=(b"identities: {'spiffe://example.org/ci': {role: operator, models: [m]}}",),
    ),
    "inference message": Parser(
        parse=inference, raises=(ScanError,), seeds=(infer_request().SerializeToString(),)
    ),
    "journal": Parser(parse=journal, raises=(CorruptSegment, UnreadableRecord), seeds=(journal_seed(),)),
    "manifest": Parser(
        parse=manifest,
        raises=(VariantError,),
        seeds=(
            b'{"version": 1, "model": "m", "variant": "v", "engine": "onnx", "files": [{"path": "../x"}]}',
        ),
    ),
    "safetensors": Parser(
        parse=lambda data, folder: load_tensors(written(folder, "t.safetensors", data)),
        raises=(VariantError,),
        seeds=(safetensors_seed(),),
    ),
    "tensors": Parser(
        parse=tensors,
        raises=(TensorError, DecodeError),
        seeds=(infer_request().SerializeToString(),),
    ),
    "token": Parser(
        parse=lambda data, _folder: find_token(lambda _: None, data.decode("utf-8", "replace"), 0.0),
        raises=(BadToken,),
        seeds=(b"anabranch_0123456789ab_" + b"A" * 43 + b"00000000",),
    ),
}


def random_bytes(parser: Parser, rng: random.Random) -> bytes:
    """A seed with up to eight splices."""
    data = rng.choice(parser.seeds)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data) + 1)
        put = (
            rng.randbytes(rng.randrange(9))
            if rng.random() < 0.5
            else rng.choice((b"\xff" * 8, bytes(8), b""))
        )
        data = data[:at] + put + data[at + rng.randrange(9) :]
    return data


def _functions() -> list[FunctionType]:
    """Our own functions that are loaded: to instrument every library would take longer than to fuzz."""
    found = []
    for name, module in list(sys.modules.items()):
        if name.startswith("anabranch."):
            owners = [module, *(each for each in vars(module).values() if isinstance(each, type))]
            found += [
                each
                for owner in owners
                for each in vars(owner).values()
                if isinstance(each, FunctionType) and each.__module__ == name
            ]
    return list(dict.fromkeys(found))


def main(name: str, seconds: float) -> None:
    """Fuzz one parser."""
    parser = PARSERS[name]
    with TemporaryDirectory() as held:
        folder = Path(held)
        try:
            import atheris
        except ModuleNotFoundError:
            rng, tried, until = random.Random(0), 0, time.monotonic() + seconds
            while time.monotonic() < until:
                parser.try_it(random_bytes(parser, rng), folder)
                tried += 1
            print(f"{name}: {tried:,} inputs, without coverage as atheris is not installed")
            return
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(parser.seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        for function in _functions():
            atheris.instrument_func(function)
        atheris.Setup(
            [sys.argv[0], f"-max_total_time={int(seconds)}", str(corpus)],
            lambda data: parser.try_it(data, folder),
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
