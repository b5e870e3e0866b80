"""REST and gRPC servers, authentication, the web page."""
