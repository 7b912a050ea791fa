"""A decoder in torch on a GPU: eager, or its steps compiled and replayed as CUDA graphs."""
