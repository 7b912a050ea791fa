"""The data plane beside its peers: same load, same machine, one after the other in turns, gRPC statuses checked."""
