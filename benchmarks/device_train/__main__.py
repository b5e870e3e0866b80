"""`python -m benchmarks.device_train`."""

import sys

from benchmarks.device_train.main import main

if __name__ == "__main__":
    sys.exit(main())
