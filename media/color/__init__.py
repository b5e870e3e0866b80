"""Colour: pixel formats, colour tags, RGB ↔ YUV conversion, HDR10 metadata."""
