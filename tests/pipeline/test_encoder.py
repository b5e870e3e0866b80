"""Which encoder a job asks for: by the setting, the network's device, and the segments that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.schema import JobOptions
from pipeline.checkpoint import Identity, Manifest
from pipeline.encoder import encoder_of_job, wished_encoder
from pipeline.layout import MANIFEST

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def test_nvenc_is_the_default_beside_an_nvidia_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (wished_encoder("device", CUDA), wished_encoder("device", CPU)) == ("nvenc", "software")
    assert [wished_encoder(setting, CUDA) for setting in ("software", "vaapi", "auto")] == ["software", "vaapi", "auto"]
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert wished_encoder("device", CUDA) == "software", "ROCm's GPUs have no NVENC"


@pytest.mark.parametrize(
    ("encoder", "wish"),
    [("libx264", "software"), ("libx265", "software"), ("h264_nvenc", "nvenc"), ("av1_vaapi", "vaapi")],
)
def test_a_resumed_job_keeps_its_encoder(tmp_path: Path, encoder: str, wish: str) -> None:
    """Segments of two encoders cannot be joined. Software encoders work on every worker."""
    identity = Identity(input_sha256="", model="", options=JobOptions(), encoder=encoder)
    manifest = Manifest(identity=identity, segments=1)
    assert encoder_of_job("device", CUDA, tmp_path) == "nvenc"
    (tmp_path / MANIFEST).write_text(manifest.model_dump_json())
    for device in (CPU, CUDA):
        assert encoder_of_job("device", device, tmp_path) == wish
    (tmp_path / MANIFEST).write_text(manifest.model_copy(update={"segments": 0}).model_dump_json())
    assert encoder_of_job("device", CPU, tmp_path) == "software", "nothing is encoded yet"
