"""The parent's side of the trust boundary: starts the process that touches libav, and enforces its limits."""
