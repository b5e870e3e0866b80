"""The confidence estimator and block skipping."""
