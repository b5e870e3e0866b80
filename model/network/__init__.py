"""BasicVSR in steps, optical flow, and fused convolution kernels."""
