"""The protocol of gRPC, generated from upscaler.proto by `make proto`."""
