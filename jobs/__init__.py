"""The contract that service and worker share: settings, errors, job documents, the store in Redis, files."""
