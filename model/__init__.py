"""The network, the router, the streaming engine, weights, training, evaluation: knows torch, knows no video."""
