"""Number formats smaller than FP32 written into ONNX graphs, and the ranges and scales that they need."""
