"""Health checking, as load balancers and Kubernetes ask for it, on any wire.

The two messages are read and written by hand: their generated module would register `grpc.health.v1` in protobuf's global
pool, where it collides with the one of grpcio-health-checking.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from enum import IntEnum
from typing import Final

from google.protobuf import descriptor_pb2

from anabranch.proto.scan import ScanError, fields, varint_field
from anabranch.wire.seam import Call, Handlers, Status, StreamCall

SERVICE: Final = "grpc.health.v1.Health"


class Serving(IntEnum):
    """A service's health."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class Health:
    """The health of each service; the empty name is the server's own."""

    def __init__(self) -> None:
        self._services: dict[str, Serving] = {"": Serving.SERVING}
        self._watchers: dict[str, set[StreamCall]] = {}

    def set(self, service: str, serving: Serving) -> None:
        """Set a service's health, and tell those who watch it.

        Args:
            service: A full service name, or any name clients know.
            serving: SERVING or NOT_SERVING.
        """
        if self._services.get(service) == serving:
            return
        self._services[service] = serving
        for call in list(self._watchers.get(service, ())):
            call.send(_response(serving))

    def shut_down(self) -> None:
        """Report NOT_SERVING for everything and end the watches, which a drain would wait for."""
        for service in list(self._services):
            self.set(service, Serving.NOT_SERVING)
        watchers, self._watchers = self._watchers, {}
        for call in {call for calls in watchers.values() for call in calls}:
            call.finish(Status.UNAVAILABLE, "the server is shutting down")

    def handlers(self) -> Handlers:
        """Return what a wire serves."""
        return Handlers(unary={f"/{SERVICE}/Check": self._check}, stream={f"/{SERVICE}/Watch": self._watch})

    def _check(self, call: Call, message: bytes) -> None:
        try:
            service = _service(message)
        except ScanError as error:
            call.fail(Status.INVALID_ARGUMENT, str(error))
            return
        serving = self._services.get(service)
        if serving is None:
            call.fail(Status.NOT_FOUND, f"service {service!r} is not known")
        else:
            call.reply(_response(serving))

    def _watch(self, call: StreamCall) -> None:
        def on_message(message: bytes) -> None:
            try:
                service = _service(message)
            except ScanError as error:
                call.fail(Status.INVALID_ARGUMENT, str(error))
                return
            watchers = self._watchers.setdefault(service, set())
            watchers.add(call)

            def forget() -> None:
                watchers.discard(call)
                if not watchers and self._watchers.get(service) is watchers:
                    del self._watchers[service]

            call.on_cancel(forget)
            call.send(_response(self._services.get(service, Serving.SERVICE_UNKNOWN)))

        call.on_message(on_message)


def _service(message: bytes) -> str:
    service = ""
    for number, _, start, end in fields(message):
        if number == 1:
            try:
                service = message[start:end].decode()
            except UnicodeDecodeError:
                raise ScanError("the service's name is no UTF-8") from None
    return service


def _response(serving: Serving) -> bytes:
    return varint_field(1, serving)


def descriptor() -> descriptor_pb2.FileDescriptorProto:
    """Return the service's description, for reflection."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="grpc/health/v1/health.proto", package="grpc.health.v1", syntax="proto3"
    )
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    response = file.message_type.add(name="HealthCheckResponse")
    response.field.add(
        name="status",
        number=1,
        label=field.LABEL_OPTIONAL,
        type=field.TYPE_ENUM,
        type_name=".grpc.health.v1.HealthCheckResponse.ServingStatus",
    )
    status = response.enum_type.add(name="ServingStatus")
    for serving in Serving:
        status.value.add(name=serving.name, number=serving)
    service = file.service.add(name="Health")
    types = {
        "input_type": ".grpc.health.v1.HealthCheckRequest",
        "output_type": ".grpc.health.v1.HealthCheckResponse",
    }
    service.method.add(name="Check", input_type=types["input_type"], output_type=types["output_type"])
    service.method.add(
        name="Watch", input_type=types["input_type"], output_type=types["output_type"], server_streaming=True
    )
    return file
