"""The decision core, pure: assignment, evidence, tests, policies and the state machine of an experiment."""
