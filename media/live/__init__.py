"""Live sources, and the codecs of gRPC streams."""
