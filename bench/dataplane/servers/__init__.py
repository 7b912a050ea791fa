"""Programs that run inside the peers' own environments; each serves one ONNX file, or forwards to it."""
