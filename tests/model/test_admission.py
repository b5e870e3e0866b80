"""Choice of device and number format. Fakes stand in for GPUs: their drivers, architectures and failing kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model import device as devices
from model.admission import Place, admit, places
from model.device import memory_errors, resolve_device, resolve_dtype, suits_large_networks
from model.engine.chunk import ChunkResult
from model.engine.gpus import gpu_troubles
from model.engine.loading import load_model, model_cache
from model.engine.trial import check
from model.engine.upscaler import Upscaler
from model.errors import DeviceError
from model.faults import device_failure

NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
CPU_DTYPE = resolve_dtype("auto", CPU)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A GPU of an architecture, with a driver."""
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.161.07  Release\n")

    def install(name: str, major: int, minor: int, *, trouble: str = "") -> None:
        def init() -> None:
            if trouble:
                raise RuntimeError(trouble)

        card = SimpleNamespace(name=name, major=major, minor=minor)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        monkeypatch.setattr(devices, "_DRIVER", tmp_path / "version")

    return install


def failing(*errors: Exception | None) -> Callable[[Place], Place]:
    """A loader that raises the errors in turn."""
    left = iter(errors)

    def load(place: Place) -> Place:
        if (error := next(left)) is not None:
            raise error
        return place

    return load


def test_the_order_of_places(gpu: Callable[..., None]) -> None:
    assert places("cpu", "auto") == ([Place(CPU, CPU_DTYPE)], [])
    gpu("NVIDIA RTX 4090", 8, 9)
    on_gpu = [Place(CUDA, dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)]
    assert places("cuda", "auto") == (on_gpu, [])
    assert places("auto", "auto") == ([*on_gpu, Place(CPU, CPU_DTYPE)], [])
    assert places("auto", "fp32") == ([Place(CUDA, torch.float32), Place(CPU, torch.float32)], [])
    assert places("auto", "fp16") == ([Place(CUDA, torch.float16)], []), "no CPU computes in float16"
    gpu("NVIDIA GeForce GTX 1660", 7, 5)
    assert places("cuda", "auto")[0] == on_gpu[1:]


@pytest.mark.parametrize(
    ("card", "used", "chosen"),
    [
        (("NVIDIA RTX 4090", 8, 9), "cuda:0", "basicvsr-video"),
        (("NVIDIA RTX 4090", 8, 9), "cpu", "small"),  # no kernel for the GPU, say
        (("NVIDIA GeForce GTX 1660", 7, 5), "cuda:0", "small"),
    ],
)
def test_the_device_decides_what_auto_means(
    gpu: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    card: tuple[str, int, int],
    used: str,
    chosen: str,
) -> None:
    """A GPU of no use is noticed while the first model loads."""
    gpu(*card)
    assert suits_large_networks(CUDA) == (card[1] >= 8)
    assert not suits_large_networks(CPU)
    monkeypatch.setattr(
        "model.engine.loading.load_model",
        lambda name, **_: SimpleNamespace(name=name, device=torch.device(used)),
    )
    models = model_cache(tmp_path)
    assert models.get("auto").name == models.default == chosen
    assert models.resolved("auto", 2) == "small-x2"
    assert model_cache(tmp_path, default="small-clean").get("auto").name == "small-clean"


def test_amd_cards_have_other_numbers(gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu("AMD Radeon", 10, 3)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    for name, dtype in (("gfx1030", torch.float16), ("gfx906", torch.float16), ("gfx942:xnack-", torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, name=name: SimpleNamespace(gcnArchName=name))
        assert resolve_dtype("auto", CUDA) is dtype


def test_an_old_driver(gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's library for management counts the GPUs, and CUDA then refuses to start."""
    gpu("NVIDIA RTX 4090", 8, 9, trouble="The NVIDIA driver on your system is too old (found version 11040).\nUpdate")
    with pytest.raises(DeviceError, match=r"cuda does not start: .*too old.*driver 535\.161\.07, .* CUDA 12\.8"):
        resolve_device("cuda")
    assert resolve_device("auto") == CPU
    found, notes = admit("auto", "auto", failing(None))
    assert found == Place(CPU, CPU_DTYPE)
    assert notes[0].startswith("The GPU is not used: cuda does not start: The NVIDIA driver")


def test_a_gpu_that_fails_while_torch_looks_at_it(gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's two libraries count differently: one of several GPUs is lost, or is split into parts (MIG)."""
    gpu("NVIDIA A100", 8, 0)

    def init() -> None:
        raise torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization with error: device >= 0")

    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(DeviceError, match="cuda does not start: CUDA call failed lazily"):
        resolve_device("cuda")
    assert resolve_device("auto") == CPU


def test_a_gpu_without_kernels(gpu: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """No number format helps: `auto` goes to the CPU at once, and `cuda` names driver, build and card."""
    gpu("NVIDIA GeForce GTX 1080", 6, 1)
    place, notes = admit("auto", "auto", failing(torch.AcceleratorError(NO_KERNEL), None))
    assert place == Place(CPU, CPU_DTYPE)
    assert caplog.messages == list(notes)
    with pytest.raises(DeviceError) as raised:
        admit("cuda", "auto", failing(torch.AcceleratorError(NO_KERNEL)))
    for fact in (NO_KERNEL, "driver 535.161.07", "kernels for sm_75 sm_90", "NVIDIA GeForce GTX 1080 is sm_61"):
        assert fact in str(raised.value)
        assert fact in notes[0]
    assert device_failure(raised.value), "a worker whose device fails while a second model is loaded must end"


def test_numbers_that_are_not_finite_lead_to_float32(gpu: Callable[..., None]) -> None:
    gpu("NVIDIA GeForce GTX 1660", 7, 5)
    wrong = DeviceError("the network computes numbers that are not finite")
    place, (note,) = admit("cuda", "auto", failing(wrong, None))
    assert place == Place(CUDA, torch.float32)
    assert note.startswith("cuda with float16 is not used: the network computes numbers that are not finite (driver")
    with pytest.raises(DeviceError, match="cuda with float16 is not used"):
        admit("cuda", "fp16", failing(wrong))


def test_formats_for_which_cudnn_has_no_kernels(gpu: Callable[..., None]) -> None:
    """Turing in bfloat16, and Pascal and Volta in each format: cuDNN finds no plan, and memory is not the reason."""
    gpu("Tesla P100", 6, 0)

    def no_plan() -> Exception:
        try:
            with memory_errors(CUDA, [2, 64, 64, 3]):
                raise RuntimeError("GET was unable to find an engine to execute this computation")
        except DeviceError as error:
            return error

    place, notes = admit("auto", "auto", failing(no_plan(), no_plan(), None))
    assert place == Place(CPU, CPU_DTYPE)
    for note, number in zip(notes, ("float16", "float32"), strict=True):
        assert note.startswith(f"cuda with {number} is not used: GET was unable to find an engine")


def test_no_other_place_for_want_of_memory(gpu: Callable[..., None]) -> None:
    gpu("NVIDIA RTX 4090", 8, 9)
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")):
        with pytest.raises(DeviceError, match="cuda ran out of memory while a model was loaded"):
            admit("auto", "auto", failing(error, None))


def test_errors_of_the_cpu_stay(gpu: Callable[..., None]) -> None:
    with pytest.raises(DeviceError, match="as it is"):
        admit("cpu", "auto", failing(DeviceError("as it is")))


class Broken:
    """A network whose results are changed by a faulty device."""

    def __init__(self, model: Upscaler, change: Callable[[ChunkResult], ChunkResult]) -> None:
        self._model, self._change = model, change

    def forward(self, *given: object, **options: object) -> ChunkResult:
        return self._change(self._model.forward(*given, **options))  # type: ignore[arg-type]


def black(result: ChunkResult) -> ChunkResult:
    return replace(result, frames=np.zeros_like(result.frames))


def endless(result: ChunkResult) -> ChunkResult:
    assert result.state.feat is not None
    return replace(result, state=replace(result.state, feat=result.state.feat / 0))


def test_a_trial_sees_wrong_numbers(tmp_path: Path) -> None:
    model = load_model("tiny", weights_dir=tmp_path, device="cpu", precision="fp32")
    check(load_model("tiny", weights_dir=tmp_path, device="cpu", precision="bf16"), model)
    with pytest.raises(DeviceError, match=r"wrong frames: .* dB against the CPU's frames"):
        check(Broken(model, black), model)
    with pytest.raises(DeviceError, match="not finite"):
        check(Broken(model, endless), model)


def test_each_gpu_is_tried(gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu("NVIDIA RTX 4090", 8, 9)

    def told(error: Exception) -> list[str]:
        def load(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("model.engine.loading._load", load)
        return gpu_troubles()

    assert told(torch.OutOfMemoryError("CUDA out of memory")) == [""], "memory can be free again"
    assert NO_KERNEL in told(torch.AcceleratorError(NO_KERNEL))[0]
