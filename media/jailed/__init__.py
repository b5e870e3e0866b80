"""The child's side of the trust boundary: libav reads untrusted files here, in a process without privileges.

Only `media.sandbox` starts the process, and nobody imports this package. NumPy is not imported: the start takes a
tenth of a second.
"""
