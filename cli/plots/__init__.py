"""Plots as SVG text, drawn by pure functions: no script, no network, readable by colour-blind people and by screen readers."""
