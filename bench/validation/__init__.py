"""The results of the validation suite as tables and pictures."""
