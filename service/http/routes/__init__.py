"""Routes: jobs, health and metrics, HTML pages."""
