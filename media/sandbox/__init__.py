"""The parent's side of the trust boundary: starts the child process `media.jailed`, and enforces its limits."""
