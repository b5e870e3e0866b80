"""BasicVSR as steps, optical flow, and the kernels below."""
