"""The stream: (chunk, state) -> (frames, state)."""
