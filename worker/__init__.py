"""The RQ worker process: decode, model, encode, checkpoint."""
