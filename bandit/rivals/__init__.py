"""Rules that others publish for the same questions, re-implemented to stand beside ours in the same simulated runs."""
