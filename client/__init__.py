"""A typed client: experiments and feedback, from any program, over gRPC; it loads nothing heavy."""
