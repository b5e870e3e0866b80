"""Faults of the device in torch's exceptions: too little memory, or a device that this process can no longer use.

After an illegal access, a failed assert or a lost device, each later call of the process fails with the same error.
Only a new process can use the device again.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Final, NoReturn

import torch

_NO_MEMORY: Final = re.compile(
    r"out of memory|(CUBLAS|CUDNN|CUSOLVER|HIPBLAS|ROCBLAS)_STATUS_\w*ALLOC\w*|miopenStatusAllocFailed"
    r"|CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate|DefaultCPUAllocator: (can't|not enough)"
    r"|NVML_SUCCESS == .*CUDACachingAllocator",
    re.IGNORECASE,
)
"""cuBLAS and cuDNN have allocators of their own, whose failure is a plain RuntimeError in torch. Without memory for its
handle, cuBLAS reports "not initialized". Where NVML refuses to answer (MIG, containers, Jetson), torch fails while it
describes the full memory."""
_NO_PLAN: Final = re.compile(r"CUDNN_STATUS_NOT_SUPPORTED|unable to find an engine to execute this computation")
"""cuDNN found no way to compute a convolution: often each known way needs more memory than is free."""
_FAILED: Final = re.compile(r"^(CUDA|HIP)( driver)? error:|^cuDNN( Frontend)? error:|^miopen", re.IGNORECASE)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def allocation_failed(error: BaseException) -> bool:
    """Check whether an exception itself, without its causes, reports a lack of memory."""
    return isinstance(error, torch.OutOfMemoryError) or _says(error, _NO_MEMORY)


def memory_ran_out(error: BaseException) -> bool:
    """Check whether a smaller chunk may help: memory ran out, or cuDNN found no plan, often for want of memory."""
    return allocation_failed(error) or _says(error, _NO_PLAN)


def device_failure(error: BaseException | None) -> BaseException | None:
    """Return the error or cause that leaves the device unusable for this process; None without such an error."""
    return next((each for each in chain(error) if _failed(each)), None)


def told(failure: BaseException) -> str:
    """Return the first line of a device's failure, for logs and users."""
    return str(failure).splitlines()[0] if str(failure) else type(failure).__name__


def advice(failure: BaseException) -> str:
    """Return the failure and a remedy, for the log of a process with a failed device."""
    return (
        f"the compute device failed: {told(failure)}. This process can no longer use the device, and ends with status "
        "70; a supervisor starts a new process. If the failure repeats: `nvidia-smi -q` and the kernel's log (Xid) "
        "show the state of a GPU, and CUDA_LAUNCH_BLOCKING=1 makes the error name its operation"
    )


def end_process() -> NoReturn:
    """End the process with status 70 (EX_SOFTWARE), without torch's destructors: these abort on a failed device."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(os.EX_SOFTWARE)


def _failed(error: BaseException) -> bool:
    kind = isinstance(error, torch.AcceleratorError) or _says(error, _FAILED)
    return kind and not memory_ran_out(error)


def _says(error: BaseException, pattern: re.Pattern[str]) -> bool:
    return isinstance(error, RuntimeError) and pattern.search(str(error).partition("\n")[0]) is not None
