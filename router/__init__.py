"""The request path: admission, forwarding, mirror, recorder, workers, controller and services."""
