"""Outcome of a folder of files as people have them, source and result side by side."""
