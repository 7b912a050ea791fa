"""MLServer's runtime for an ONNX file; `mlserver start` loads it by the name in model-settings.json."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from bench.dataplane.servers.onnx_model import OnnxModel


class Model(MLModel):
    """One ONNX file."""

    async def load(self) -> bool:
        """Open the session."""
        self._model = OnnxModel(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the request's rows, which MLServer may have batched."""
        feeds = {each.name: NumpyCodec.decode_input(each) for each in payload.inputs}
        output = NumpyCodec.encode_output(self._model.output, self._model.run(feeds))
        return InferenceResponse(model_name=self.name, outputs=[output])
