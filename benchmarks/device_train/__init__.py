"""Training on a device within minutes: data from one packed file, steps from the measured rate.

`benchmarks/device/README.md` gives the calls.

The package imports only `model`, the standard library, torch, NumPy, safetensors and OpenCV.
"""
