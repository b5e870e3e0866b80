"""The REST API and the web page: FastAPI over `service.operations`."""
