"""The child's side of the trust boundary: inspect, decode and mux untrusted files. Only `media.sandbox` starts it."""
