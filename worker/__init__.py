"""The worker process: claims jobs through RQ, runs the pipeline, and reports to the store."""
