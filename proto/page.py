"""docs/messages.md, written from our .proto files: `python -m anabranch.proto.page > docs/messages.md` (needs grpcio-tools)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

FILES: Final = ("feedback.proto", "control.proto")
_HERE: Final = Path(__file__).parent
_HEAD: Final = """\
# Messages

Written by `make proto` from `proto/*.proto`; a test holds the two together. These are our own services. The service of inference is the
[Open Inference Protocol](protocol.md), as Triton and KServe have it, in `proto/open_inference.proto`.
"""
# Field numbers of FileDescriptorProto and its parts, which make the path of a comment.
_MESSAGE, _ENUM, _SERVICE, _FIELD, _NESTED, _METHOD = 4, 5, 6, 2, 3, 2
_SCALARS: Final = {
    number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()
}
Comments = dict[tuple[int, ...], str]


def text() -> str:
    """The page."""
    return "\n".join([_HEAD, *(line for file in _parsed() for line in _file(file))])


def _parsed() -> list[FileDescriptorProto]:
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        arguments = ["", f"-I{_HERE}", f"--descriptor_set_out={out}", "--include_source_info"]
        include = Path(protoc.__file__).parent / "_proto"
        if protoc.main([*arguments, f"-I{include}", *FILES]):
            raise ValueError(f"{', '.join(FILES)} cannot be compiled: protoc said why")
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def _file(file: FileDescriptorProto) -> Iterator[str]:
    comments: Comments = {
        tuple(place.path): " ".join(place.leading_comments.split())
        for place in file.source_code_info.location
        if place.leading_comments
    }
    yield f"## {file.package}, {Path(file.name).name}\n"
    for number, service in enumerate(file.service):
        yield f"### {service.name}\n"
        if said := comments.get((_SERVICE, number)):
            yield f"{said}\n"
        yield "| method | request | answer | |\n|---|---|---|---|"
        for index, method in enumerate(service.method):
            streams = "stream of " if method.server_streaming else ""
            said = comments.get((_SERVICE, number, _METHOD, index), "")
            yield f"| `{method.name}` | {_link(method.input_type)} | {streams}{_link(method.output_type)} | {_cell(said)} |"
        yield ""
    for number, message in enumerate(file.message_type):
        yield from _message(message, comments, (_MESSAGE, number))
    for number, enum in enumerate(file.enum_type):
        yield from _enum(enum, comments, (_ENUM, number))


def _message(message: DescriptorProto, comments: Comments, path: tuple[int, ...]) -> Iterator[str]:
    yield f"### {message.name}\n"
    if said := comments.get(path):
        yield f"{said}\n"
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    if message.field:
        yield "| field | type | |\n|---|---|---|"
    for index, field in enumerate(message.field):
        said = comments.get((*path, _FIELD, index), "")
        entry = maps.get(field.type_name.rpartition(".")[2])
        if entry is not None:
            kind = f"map from {_kind(entry.field[0])} to {_kind(entry.field[1])}"
        else:
            repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
            kind = f"{'several ' if repeated else ''}{_kind(field)}"
        # An optional field is alone in a oneof that nobody sees.
        if field.HasField("oneof_index") and not field.proto3_optional:
            said = f"{said} (one of `{message.oneof_decl[field.oneof_index].name}`)".strip()
        yield f"| `{field.name}` | {kind}{', optional' if field.proto3_optional else ''} | {_cell(said)} |"
    if message.field:
        yield ""
    for index, nested in enumerate(message.nested_type):
        if nested.name not in maps:
            yield from _message(nested, comments, (*path, _NESTED, index))


def _enum(enum: EnumDescriptorProto, comments: Comments, path: tuple[int, ...]) -> Iterator[str]:
    yield f"### {enum.name}\n"
    if said := comments.get(path):
        yield f"{said}\n"
    yield "| value | |\n|---|---|"
    for index, value in enumerate(enum.value):
        yield f"| `{value.name}` = {value.number} | {_cell(comments.get((*path, _FIELD, index), ''))} |"
    yield ""


def _kind(field: FieldDescriptorProto) -> str:
    return _link(field.type_name) if field.type_name else _SCALARS[field.type]


def _link(full_name: str) -> str:
    name = full_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})" if full_name.startswith(".anabranch.") else f"`{full_name[1:]}`"


def _cell(said: str) -> str:
    return said.replace("|", "\\|")


if __name__ == "__main__":
    print(text().rstrip("\n"))
