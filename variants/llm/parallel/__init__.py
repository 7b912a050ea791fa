"""Tensor parallelism: one decoder cut across processes that add up their parts."""
