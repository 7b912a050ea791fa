"""The validation suite: every promise of the decision engine as a simulation with a target that can be missed."""
