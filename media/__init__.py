"""PyAV, and nothing else touches PyAV: probe, reader, writer."""
