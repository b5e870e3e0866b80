"""The contract between service and worker: settings, errors, job documents, the Redis store, and files."""
