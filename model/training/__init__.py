"""Training: `prepare` packs data into a cache, `run` trains from it; both are plain calls that a command line wraps."""
