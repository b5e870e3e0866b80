"""The end of a server whose compute device failed: no later call of this process could succeed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from model.faults import advice, device_failure

log = logging.getLogger(__name__)


class DeviceWatch:
    """Looks at the errors of the networks."""

    def __init__(self, end: Callable[[], object]) -> None:
        """`end` stops the server, and may be called from any thread."""
        self._end = end
        self.failure: BaseException | None = None
        """The failure."""

    def see(self, outcome: object) -> None:
        """Stop the server if an outcome of the network is a failure of the device. Thread-safe."""
        failure = device_failure(outcome) if isinstance(outcome, Exception) else None
        if failure is not None and self.failure is None:
            self.failure = failure
            log.critical("%s", advice(failure))
            self._end()
