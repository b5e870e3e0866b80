"""Decode → model → encode with checkpoints; used by the worker and the command line."""
