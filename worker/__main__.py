"""`python -m worker`: a worker without the command line interface; tests start workers with this module."""

from __future__ import annotations

import sys

from worker.main import main

if __name__ == "__main__":
    sys.exit(main())
