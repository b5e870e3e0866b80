"""`python -m benchmarks.device`."""

import sys

from benchmarks.device.main import main

if __name__ == "__main__":
    sys.exit(main(ends=True))
