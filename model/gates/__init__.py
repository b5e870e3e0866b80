"""The confidence estimator, and skipping of residual blocks and of the upsampler."""
