"""What torch's exceptions say about the device."""

from __future__ import annotations

import pytest
import torch

from commands.shared.errors import explained
from model.device import memory_errors
from model.errors import DeviceError
from model.faults import device_failure, memory_ran_out
from worker.errors import out_of_memory

MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in ..."),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1154, pl'),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
)
FAILURES = (
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("HIP error: unspecified launch failure"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
)
OTHERS = (
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ValueError("out of memory"),
    OSError(12, "Cannot allocate memory"),
)


@pytest.mark.parametrize("error", MEMORY, ids=str)
def test_memory_of_every_library_can_run_out(error: Exception) -> None:
    assert memory_ran_out(error)
    assert device_failure(error) is None, "a smaller chunk may still fit"
    said = "ran out of memory at 64x48 with 3 frames"
    with pytest.raises(DeviceError, match=said) as raised, memory_errors(torch.device("cpu"), [3, 48, 64, 3]):
        raise error
    assert out_of_memory(raised.value), "the worker tries smaller chunks"


@pytest.mark.parametrize("error", FAILURES, ids=str)
def test_a_failed_device_is_told_from_memory(error: Exception) -> None:
    assert not memory_ran_out(error)
    with pytest.raises(type(error)), memory_errors(torch.device("cpu"), [1, 8, 8, 3]):
        raise error
    outer = RuntimeError("the model's thread ended")
    outer.__cause__ = error
    assert device_failure(outer) is error


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_neither(error: Exception) -> None:
    assert not memory_ran_out(error)
    assert device_failure(error) is None


def test_a_loop_of_causes_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert device_failure(first) is None


def test_a_command_says_what_failed() -> None:
    failed, wrong = torch.AcceleratorError("CUDA error: device-side assert triggered\nSearch"), RuntimeError("wrong")
    assert explained(failed) == (
        "the compute device failed: CUDA error: device-side assert triggered; run the same command again to continue"
    )
    assert explained(wrong) is None
