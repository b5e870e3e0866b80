"""Reads and writes video files. The only package that uses PyAV.

Start with `media.probe`, `media.reader`, `media.spec`, `media.encode.segment` and `media.assemble`.
Source files are untrusted: only `media.jailed` opens them, in a child process that `media.sandbox` starts.
"""
