"""Forecasts of the volume of requests: what autoscalers and people read."""
