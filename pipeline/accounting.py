"""Progress and measurements of a job across its chunks."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.schema import JobMetrics
from pipeline.checkpoint import CHUNKS_REMEMBERED, CUTS_REMEMBERED, Manifest
from pipeline.stages import ComingChunk

STAGES = ("decode", "model", "encode")
_COUNTED = ("segments", "frames", "units_total", "units_skipped", "units_reused", "dense_seconds")


def after_chunk(
    before: Manifest, chunk: ComingChunk, *, decode_seconds: float, encode_seconds: float, warnings: tuple[str, ...]
) -> Manifest:
    """Manifest after one more chunk.

    Args:
        before: the manifest before the chunk.
        chunk: the encoded chunk.
        decode_seconds: seconds of decoding since the last chunk.
        encode_seconds: seconds of encoding the chunk.
        warnings: warnings of the decoder, added after the last chunk.
    """
    result = chunk.result
    counts = {
        "units_total": before.units_total + sum(report.units_total for report in result.reports),
        "units_skipped": before.units_skipped + sum(report.units_left_out for report in result.reports),
        "units_reused": before.units_reused + sum(report.units_reused for report in result.reports),
        "dense_seconds": before.dense_seconds + result.dense_seconds,
        "cuts": [*before.cuts, *(before.frames + cut for cut in result.scene_cuts)][:CUTS_REMEMBERED],
    }
    manifest = before.model_copy(
        update={
            "segments": before.segments + 1,
            "frames": before.frames + len(chunk.pts),
            "read_to": chunk.read_to,
            "clean": chunk.clean,
            "pending": chunk.pending,
            "complete": chunk.last,
            "warnings": [*before.warnings, *warnings] if chunk.last else before.warnings,
            **counts,
        }
    )
    return manifest.model_copy(
        update={"metrics": _metrics(manifest, before.metrics, result.seconds, decode_seconds, encode_seconds)}
    )


def joined(manifests: Sequence[Manifest], firsts: Sequence[int]) -> Manifest:
    """Manifest of a whole video after all of its parts; `firsts` are the parts' first frames."""
    last = manifests[-1]
    cuts = [first + cut for manifest, first in zip(manifests, firsts, strict=True) for cut in manifest.cuts]
    whole = last.model_copy(
        update={
            "identity": last.identity.of_whole(),
            "cuts": cuts[:CUTS_REMEMBERED],
            "warnings": list(dict.fromkeys(text for manifest in manifests for text in manifest.warnings)),
            **{name: sum(getattr(manifest, name) for manifest in manifests) for name in _COUNTED},
        }
    )
    parts = [manifest.metrics for manifest in manifests]
    chunks = [seconds for part in parts for seconds in part.chunk_seconds]
    before = JobMetrics(
        decode_seconds=sum(part.decode_seconds for part in parts),
        model_seconds=sum(part.model_seconds for part in parts),
        encode_seconds=sum(part.encode_seconds for part in parts),
    )
    metrics = _metrics(whole, before, 0.0, 0.0, 0.0)
    chunk_seconds = chunks[-CHUNKS_REMEMBERED:]
    return whole.model_copy(update={"metrics": metrics.model_copy(update={"chunk_seconds": chunk_seconds})})


def _metrics(
    manifest: Manifest, before: JobMetrics, model_seconds: float, decode_seconds: float, encode_seconds: float
) -> JobMetrics:
    total, all_model_seconds = manifest.units_total, before.model_seconds + model_seconds
    return before.model_copy(
        update={
            "decode_seconds": before.decode_seconds + decode_seconds,
            "model_seconds": all_model_seconds,
            "encode_seconds": before.encode_seconds + encode_seconds,
            "chunk_seconds": [*before.chunk_seconds, model_seconds][-CHUNKS_REMEMBERED:],
            "cuts": manifest.cuts,
            "skip_ratio": manifest.units_skipped / total if total else 0.0,
            "reuse_ratio": manifest.units_reused / total if total else 0.0,
            "speedup": manifest.dense_seconds / all_model_seconds if all_model_seconds else 1.0,
        }
    )


def stage_seconds(before: JobMetrics, after: JobMetrics) -> dict[str, float]:
    """Seconds in each stage between two measurements."""
    return {name: getattr(after, f"{name}_seconds") - getattr(before, f"{name}_seconds") for name in STAGES}


def encoding_share(metrics: JobMetrics) -> float:
    """Share of encoding in the work on a frame."""
    work = metrics.model_seconds + metrics.encode_seconds
    return metrics.encode_seconds / work if work else 0.0
