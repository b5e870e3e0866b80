"""The stream: (chunk, state) in, (frames, state) out."""
