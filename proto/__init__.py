"""upscaler.proto and the code generated from it."""
