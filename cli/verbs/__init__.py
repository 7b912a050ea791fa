"""The verbs of the command line: a file a group, each with a `register(app)` that `main` calls."""
