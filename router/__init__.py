"""The request path: wire, admission, forwarding, mirror, recorder, workers, controller and services."""
