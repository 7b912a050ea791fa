"""The Open Inference Protocol's service: liveness, readiness, metadata and inference, over any wire."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Protocol, Self, TypeVar

from anabranch.proto import open_inference_pb2 as pb
from anabranch.router.infer import Inference
from anabranch.router.models import Models, UnknownModel, Variant
from anabranch.router.routes import Routes
from anabranch.router.statistics import statistics_of
from anabranch.router.stream_infer import StreamInference
from anabranch.variants.tensors import TensorSpec
from anabranch.wire.seam import Call, Handlers, Status

SERVICE = "inference.GRPCInferenceService"


class _Parsed(Protocol):
    @classmethod
    def FromString(cls, data: bytes) -> Self: ...  # noqa: N802  # protobuf's name


_Request = TypeVar("_Request", bound=_Parsed)


class _Serialized(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802  # protobuf's name


class OpenInference:
    """The service; everything but inference itself is answered from the models in memory."""

    def __init__(self, models: Models, routes: Routes, inference: Inference) -> None:
        self._models = models
        self._routes = routes
        self._inference = inference
        self._streams = StreamInference(inference.infer)

    def handlers(self) -> Handlers:
        """What a wire serves."""
        return Handlers(
            unary={
                f"/{SERVICE}/ServerLive": _answer(pb.ServerLiveRequest, self._live),
                f"/{SERVICE}/ServerReady": _answer(pb.ServerReadyRequest, self._ready),
                f"/{SERVICE}/ServerMetadata": _answer(pb.ServerMetadataRequest, self._server),
                f"/{SERVICE}/ModelReady": _answer(pb.ModelReadyRequest, self._model_ready),
                f"/{SERVICE}/ModelMetadata": _answer(pb.ModelMetadataRequest, self._model),
                f"/{SERVICE}/ModelConfig": _answer(pb.ModelConfigRequest, self._config),
                f"/{SERVICE}/ModelStatistics": _answer(pb.ModelStatisticsRequest, self._statistics),
                f"/{SERVICE}/RepositoryIndex": _answer(pb.RepositoryIndexRequest, self._index),
                f"/{SERVICE}/ModelInfer": self._inference.infer,
            }
        ) | self._streams.handlers(SERVICE)

    def shut_down(self) -> None:
        """End the streams that a drain would wait for."""
        self._streams.shut_down()

    def _live(self, _request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def _ready(self, _request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        # The port opens when every variant is loaded and warm, and closes with a drain.
        return pb.ServerReadyResponse(ready=True)

    def _server(self, _request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name="anabranch",
            version=version("anabranch"),
            extensions=["model_repository", "parameters", "statistics"],
        )

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._models.locate(request.name, request.version)
        except UnknownModel:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def _model(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        model, chosen = self._models.locate(request.name, request.version)
        variant = model.variant(chosen or self._routes.route(model.name).baseline)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[chosen] if chosen else sorted(model.variants),
            platform=str(variant.manifest.engine),
            inputs=[_tensor(spec) for spec in all_inputs(variant)],
            outputs=[_tensor(spec) for spec in variant.outputs],
        )

    def _config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        model, chosen = self._models.locate(request.name, request.version)
        variant = model.variant(chosen or self._routes.route(model.name).baseline)
        several = len(variant.signatures) > 1
        config = pb.ModelConfig(name=request.name, platform=str(variant.manifest.engine))
        for spec in all_inputs(variant):
            config.input.add(
                name=spec.name, data_type=_config_type(spec), dims=list(spec.shape), optional=several
            )
        # Clients that read this know to ask by streams; those that do not get the whole answer.
        config.model_transaction_policy.decoupled = variant.manifest.generation is not None
        for spec in variant.outputs:
            config.output.add(name=spec.name, data_type=_config_type(spec), dims=list(spec.shape))
        return pb.ModelConfigResponse(config=config)

    def _statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        return statistics_of(request, self._models, self._inference.meters, self._inference.backends)

    def _index(self, _request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        # Every variant is loaded before the port opens, so that `ready` leaves none out.
        response = pb.RepositoryIndexResponse()
        for model in self._models:
            for name in sorted(model.variants):
                response.models.add(name=model.name, version=name, state="READY")
        return response


def all_inputs(variant: Variant) -> list[TensorSpec]:
    """The inputs of every signature, each once: a client sends those of one signature."""
    found = {spec.name: spec for signature in variant.signatures for spec in signature.inputs}
    return list(found.values())


def _answer(kind: type[_Request], handle: Callable[[_Request], _Serialized]) -> Callable[[Call, bytes], None]:
    def handler(call: Call, message: bytes) -> None:
        try:
            request = kind.FromString(message)
        except Exception as error:  # noqa: BLE001  # protobuf raises its own DecodeError from C
            call.fail(Status.INVALID_ARGUMENT, f"the message is no {kind.__name__}: {error}")
            return
        try:
            response = handle(request)
        except UnknownModel as error:
            call.fail(Status.NOT_FOUND, str(error))
            return
        call.reply(response.SerializeToString())

    return handler


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=str(spec.datatype), shape=list(spec.shape)
    )


def _config_type(spec: TensorSpec) -> pb.DataType.ValueType:
    name = "STRING" if spec.datatype == "BYTES" else str(spec.datatype)
    return pb.DataType.Value(f"TYPE_{name}")
