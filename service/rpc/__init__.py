"""gRPC server: live streams (`UpscalerService`) and the jobs of the REST API (`JobService`)."""
