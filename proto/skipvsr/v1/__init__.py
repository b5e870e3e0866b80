"""The gRPC protocol, generated from upscaler.proto by `make proto`."""
