"""One run that settles what a GPU does with this project: correctness first, then speed (README.md in this folder).

The package imports only `model`, the standard library, torch, NumPy and safetensors.
"""
