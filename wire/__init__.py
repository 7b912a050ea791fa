"""The wire: gRPC on HTTP/2 in both directions, for anything above that serves or calls it."""
