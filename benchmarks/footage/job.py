"""One file through the product, as a job of a worker: probe, jail, network, encoder, muxer. Bounded in time."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.footage.facts import as_plain, file_facts
from benchmarks.footage.measures import measured
from jobs.schema import JobOptions
from media.errors import MediaError
from media.limits import Limits
from media.probe import probe
from model.engine.chunk import ChunkResult
from model.engine.loading import load_model
from model.engine.state import RecurrentState
from model.engine.upscaler import Upscaler
from model.zoo.models import load_network
from pipeline.events import Finished, Started
from pipeline.source import stream_facts
from pipeline.task import UpscaleTask
from pipeline.upscale import upscale

_UNLIMITED: Final = Limits(max_pixels=2**62, max_output_pixels=2**62)
_NETWORK_PIXELS: Final = 60_000
"""Larger pictures bypass the network `tiny`. Their pixels reach the encoder as they are, and its scaler enlarges."""
_CHUNK: Final = 8
_NO_WEIGHTS: Final = Path(__file__).parent
"""`tiny` needs no weights file."""


@dataclass
class Outcome:
    """Outcome of one file with one set of options."""

    name: str
    options: dict[str, Any]
    state: str = "refused"
    """done, failed, refused (before the first frame) or timeout."""
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    before_start: list[str] = field(default_factory=list)
    """The warnings that were known before the first frame."""
    seconds: float = 0.0
    source: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    document: dict[str, Any] | None = None
    """`output` of the job document."""
    measures: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The message and all warnings."""
        return " ".join([self.message, *self.warnings]).strip()

    def as_plain(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"words": self.words}


class PlainUpscaler(Upscaler):
    """An upscaler without a network: frames come out as they went in, in the same chunks."""

    def forward(
        self, frames: Any, state: Any, *, lookahead: int, last: bool, routing: Any = "off", observer: Any = None
    ) -> ChunkResult:
        """Emit the frames that the network would emit now."""
        held = [] if state is None else [state.pending]
        every = torch.cat([*held, torch.from_numpy(frames)])
        emitted = len(every) if last else max(0, len(every) - lookahead)
        pending = RecurrentState(self.fingerprint, every[emitted:].clone())
        return ChunkResult(every[:emitted].numpy(), pending, [])


def tiny() -> Upscaler:
    """The network `tiny`, with random weights."""
    return load_model("tiny", weights_dir=_NO_WEIGHTS, device="cpu", precision="fp32", threads=1)


def no_network() -> Upscaler:
    """An upscaler without a network."""
    plain, fingerprint = load_network("tiny", _NO_WEIGHTS)
    return PlainUpscaler("none", plain, fingerprint, torch.device("cpu"), torch.float32)


def run_job(task: UpscaleTask, model: Upscaler) -> tuple[Finished, list[str]]:
    """Run the pipeline to its end. Returns the last event, and the warnings before the first frame."""
    early: list[str] = []
    last: Any = None
    for last in upscale(task, model):
        if isinstance(last, Started):
            early = list(last.warnings)
    assert isinstance(last, Finished)
    return last, early


def run_file(source: Path, options: Mapping[str, Any], measures: list[str], *, seconds: float) -> Outcome:
    """Run one file in a process of its own, for at most `seconds`.

    Args:
        measures: names of `benchmarks.footage.measures` to take from the result.
    """
    context = multiprocessing.get_context("fork")  # torch is loaded already
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, lambda: _run(source, options, measures)), daemon=False)
    begun = time.monotonic()
    process.start()
    theirs.close()
    outcome = Outcome(source.name, dict(options), "timeout", f"not done after {seconds:g} s")
    if ours.poll(seconds):
        try:
            outcome = ours.recv()
        except EOFError:
            outcome = Outcome(source.name, dict(options), "failed", "the process died")
    process.kill()
    process.join()
    outcome.seconds = round(time.monotonic() - begun, 1)
    return outcome


def _send(pipe: Connection, work: Callable[[], Outcome]) -> None:
    pipe.send(work())
    pipe.close()


def _run(source: Path, options: Mapping[str, Any], measures: list[str]) -> Outcome:
    outcome = Outcome(source.name, dict(options))
    try:
        outcome.source = as_plain(file_facts(source, decode=True))
    except Exception as error:  # libav's, and those of a hostile file's facts
        outcome.source = {"unreadable": f"{type(error).__name__}: {error}"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            _upscale(outcome, source, Path(folder), measures)
        except (MediaError, OSError, ValueError) as error:
            outcome.message = f"{type(error).__name__}: {error}"
        except Exception:  # a fault of the product: a row, not the end of the table
            outcome.state, outcome.message = "failed", traceback.format_exc(limit=-2)
    return outcome


def _upscale(outcome: Outcome, source: Path, folder: Path, measures: list[str]) -> None:
    given = {name: value for name, value in outcome.options.items() if name != "network"}
    chosen = JobOptions.model_validate({"model": "tiny", "scale": 2, "chunk": _CHUNK, "lookahead": 2, **given})
    info = probe(source, target=chosen.container)
    outcome.state = "failed"
    pixels = info.video.width * info.video.height
    bare = pixels > _NETWORK_PIXELS or outcome.options.get("network") == "none"
    finished, outcome.before_start = run_job(UpscaleTask(source, folder, chosen), no_network() if bare else tiny())
    outcome.warnings = finished.warnings
    outcome.state = "done"
    outcome.result = as_plain(file_facts(finished.path, decode=False))
    outcome.result["container_name"] = finished.spec.container
    outcome.document = stream_facts(
        probe(finished.path, _UNLIMITED),
        finished.spec,
        frames=finished.progress.frames_done,
        frame_rate=finished.frame_rate,
    ).model_dump()
    outcome.measures = {name: measured(name, source, finished.path) for name in measures}
