"""Encoding: one closed segment for each chunk, set up for software and hardware encoders."""
