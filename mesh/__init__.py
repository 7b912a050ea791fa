"""Envoy as the data plane: the controller is its xDS server, its access log is the journal's source."""
