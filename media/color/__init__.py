"""Colour: pixel formats, matrices, ranges, HDR metadata."""
