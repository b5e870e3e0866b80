"""Encoders, and the segment that each chunk becomes."""
