"""REST API and web page: FastAPI on top of `service.operations`."""
