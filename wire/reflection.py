"""Server reflection, v1 and v1alpha, on any wire: grpcurl and its like need no proto files.

Its messages are read and written by hand, for the reason given in `anabranch.wire.health`.

Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from anabranch.proto.scan import ScanError, bytes_field, fields, text_field, varint_field
from anabranch.wire.seam import Handlers, Status, StreamCall

PACKAGES: Final = ("grpc.reflection.v1", "grpc.reflection.v1alpha")

# Fields of ServerReflectionRequest.
_FILE_BY_NAME: Final = 3
_FILE_OF_SYMBOL: Final = 4
_FILE_OF_EXTENSION: Final = 5
_EXTENSIONS_OF_TYPE: Final = 6
_LIST_SERVICES: Final = 7

_File = descriptor_pb2.FileDescriptorProto
_Field = descriptor_pb2.FieldDescriptorProto


class Reflection:
    """Answers what a server's services look like.

    Args:
        files: The descriptors of what is served; what they import is found.
        described: Descriptions that are in no descriptor pool.
        services: The full names to list; absent, every service of `files` and `described`, and reflection's own.
    """

    def __init__(
        self,
        files: Iterable[FileDescriptor],
        described: Iterable[_File] = (),
        services: Iterable[str] | None = None,
    ) -> None:
        self._files: dict[str, tuple[_File, bytes]] = {}
        for file in files:
            self._add_with_imports(file)
        for package in PACKAGES:
            own = _descriptor(package)
            self._files[own.name] = (own, own.SerializeToString())
        for message in described:
            self._files[message.name] = (message, message.SerializeToString())
        self._symbols = {symbol: name for name, (file, _) in self._files.items() for symbol in _symbols(file)}
        found = [
            f"{file.package}.{service.name}" for file, _ in self._files.values() for service in file.service
        ]
        self._services = sorted(found if services is None else services)

    def handlers(self) -> Handlers:
        """Return what a wire serves."""
        return Handlers(
            stream={f"/{package}.ServerReflection/ServerReflectionInfo": self._serve for package in PACKAGES}
        )

    def answer(self, request: bytes) -> bytes:
        """Answer one ServerReflectionRequest.

        Args:
            request: The serialized request.

        Raises:
            ScanError: It is no protobuf message.
        """
        kind, value, host = 0, b"", b""
        for number, _, start, end in fields(request):
            if number == 1:
                host = request[start:end]
            elif _FILE_BY_NAME <= number <= _LIST_SERVICES:
                kind, value = number, request[start:end]
        head = bytes_field(1, host) + bytes_field(2, request)
        text = value.decode("utf-8", "replace")
        match kind:
            case 3:
                return head + self._file(text if text in self._files else None, f"file {text!r}")
            case 4:
                return head + self._file(self._symbols.get(text), f"symbol {text!r}")
            case 5:
                return head + _error(Status.NOT_FOUND, "no extensions are served")
            case 6:
                if text not in self._symbols:
                    return head + _error(Status.NOT_FOUND, f"type {text!r} is not known")
                # A message without extensions.
                return head + bytes_field(5, text_field(1, text))
            case 7:
                listed = b"".join(bytes_field(1, text_field(1, service)) for service in self._services)
                return head + bytes_field(6, listed)
            case _:
                return head + _error(Status.INVALID_ARGUMENT, "the request asks for nothing")

    def _serve(self, call: StreamCall) -> None:
        def on_message(message: bytes) -> None:
            try:
                call.send(self.answer(message))
            except ScanError as error:
                call.fail(Status.INVALID_ARGUMENT, str(error))

        call.on_message(on_message)
        call.on_half_close(call.finish)

    def _file(self, name: str | None, asked: str) -> bytes:
        """Return a file and all it imports."""
        if name is None:
            return _error(Status.NOT_FOUND, f"{asked} is not known")
        wanted = [name]
        for item in wanted:
            wanted += [imported for imported in self._files[item][0].dependency if imported not in wanted]
        return bytes_field(4, b"".join(bytes_field(1, self._files[item][1]) for item in wanted))

    def _add_with_imports(self, file: FileDescriptor) -> None:
        if file.name not in self._files:
            data = file.serialized_pb
            self._files[file.name] = (_File.FromString(data), data)
            for imported in file.dependencies:
                self._add_with_imports(imported)


def _error(status: Status, message: str) -> bytes:
    return bytes_field(7, varint_field(1, status) + text_field(2, message))


def _symbols(file: _File) -> Iterator[str]:
    """Yield the full names that a file defines."""
    prefix = f"{file.package}." if file.package else ""
    for message in file.message_type:
        yield from _message_symbols(prefix, message)
    for enum in file.enum_type:
        yield prefix + enum.name
    for service in file.service:
        yield prefix + service.name
        yield from (f"{prefix}{service.name}.{method.name}" for method in service.method)


def _message_symbols(prefix: str, message: descriptor_pb2.DescriptorProto) -> Iterator[str]:
    name = prefix + message.name
    yield name
    yield from (f"{name}.{field.name}" for field in message.field)
    yield from (f"{name}.{enum.name}" for enum in message.enum_type)
    for nested in message.nested_type:
        yield from _message_symbols(f"{name}.", nested)


# Message, then its fields as number, name, type, and whether repeated; those after "|" share a oneof of that name.
_MESSAGES: Final = """
ServerReflectionRequest: 1 host string | message_request: 3 file_by_filename string, 4 file_containing_symbol string, \
5 file_containing_extension ExtensionRequest, 6 all_extension_numbers_of_type string, 7 list_services string
ExtensionRequest: 1 containing_type string, 2 extension_number int32
ServerReflectionResponse: 1 valid_host string, 2 original_request ServerReflectionRequest | message_response: \
4 file_descriptor_response FileDescriptorResponse, 5 all_extension_numbers_response ExtensionNumberResponse, \
6 list_services_response ListServiceResponse, 7 error_response ErrorResponse
FileDescriptorResponse: 1 file_descriptor_proto bytes*
ExtensionNumberResponse: 1 base_type_name string, 2 extension_number int32*
ListServiceResponse: 1 service ServiceResponse*
ServiceResponse: 1 name string
ErrorResponse: 1 error_code int32, 2 error_message string
"""


def _descriptor(package: str) -> _File:
    """Return reflection's own description."""
    file = _File(
        name=f"{package.replace('.', '/')}/reflection.proto",
        package=package,
        syntax="proto3",
    )
    for line in _MESSAGES.strip().splitlines():
        name, _, body = line.partition(": ")
        message = file.message_type.add(name=name)
        plain, _, choice = body.partition(" | ")
        _add_fields(message, package, plain)
        if choice:
            oneof, _, chosen = choice.partition(": ")
            message.oneof_decl.add(name=oneof)
            for field in _add_fields(message, package, chosen):
                field.oneof_index = 0
    service = file.service.add(name="ServerReflection")
    service.method.add(
        name="ServerReflectionInfo",
        input_type=f".{package}.ServerReflectionRequest",
        output_type=f".{package}.ServerReflectionResponse",
        client_streaming=True,
        server_streaming=True,
    )
    return file


def _add_fields(message: descriptor_pb2.DescriptorProto, package: str, text: str) -> list[_Field]:
    added = []
    scalars = {"string": _Field.TYPE_STRING, "bytes": _Field.TYPE_BYTES, "int32": _Field.TYPE_INT32}
    for part in text.split(", "):
        number, name, kind = part.split()
        field = message.field.add(name=name, number=int(number))
        field.label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
        kind = kind.rstrip("*")
        if kind in scalars:
            field.type = scalars[kind]
        else:
            field.type = _Field.TYPE_MESSAGE
            field.type_name = f".{package}.{kind}"
        added.append(field)
    return added
