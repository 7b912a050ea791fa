"""What a server says of itself to Prometheus: counted in the workers, summed by the supervisor, read over HTTP."""
