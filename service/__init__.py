"""Front ends of the job store: REST API with web page (`http`), gRPC server (`rpc`), and the code both share."""
