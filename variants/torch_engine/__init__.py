"""Encoders in torch: their artifacts, their number formats, and the sessions that run them; needs the `torch` extra."""
