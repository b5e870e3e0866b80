"""Progress and measurements of a job whose parts several workers compute."""

from __future__ import annotations

from collections.abc import Iterable

from jobs.parts import DONE, TAKEN, Row
from jobs.schema import JobMetrics, JobSegments, Progress
from pipeline.checkpoint import CHUNKS_REMEMBERED, CUTS_REMEMBERED
from pipeline.parts import WARM_UP, Plan


class Together:
    """Facts about all parts: the lead's part from the pipeline, the other parts from the table.

    Args:
        plan: the plan of the job.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows = {number: Row(number, "", 0, 0, Progress(), JobMetrics()) for number in range(len(plan.parts))}
        self._own: int | None = None
        self._latest = Progress()
        self._workers = 1

    def begin(self, number: int) -> None:
        """The lead begins a part."""
        self._own, self._latest = number, self._rows[number].progress

    def end(self, progress: Progress, metrics: JobMetrics) -> None:
        """The lead has finished its part."""
        assert self._own is not None
        self._rows[self._own] = Row(self._own, DONE, 0, 0, progress, metrics)
        self._own = None

    def is_own(self, number: int) -> bool:
        """Whether the lead computes a part now."""
        return number == self._own

    def checkpoint(self, number: int) -> tuple[Progress, JobMetrics]:
        """Progress and measurements of a part that the lead has finished or returned at its checkpoint."""
        row = self._rows[number]
        return (self._latest.at_checkpoint() if number == self._own else row.progress), row.metrics

    def see(self, rows: Iterable[Row]) -> None:
        """Take the rows of the table, which knows nothing new of the lead's own part."""
        self._rows.update({row.number: row for row in rows if row.number != self._own})
        taken = sum(row.state == TAKEN for row in self._rows.values() if row.number != self._own)
        self._workers = max(self._workers, 1 + taken)

    def progress(self, own: Progress | None = None) -> Progress:
        """Progress of the whole job; `own` is that of the lead's part."""
        self._latest = own or self._latest
        each = [(row.state == TAKEN, row.progress) for row in self._rows.values() if row.number != self._own]
        each += [(True, own)] if own is not None else []
        total = self._plan.frames
        done = min(total, sum(progress.frames_done for _, progress in each))
        fps = sum(progress.fps or 0.0 for working, progress in each if working)
        return Progress(
            frames_done=done,
            frames_saved=min(total, sum(progress.frames_saved for _, progress in each)),
            frames_total=total,
            fps=fps or None,
            eta_seconds=(total - done) / fps if fps else None,
        )

    def metrics(self, own: JobMetrics) -> JobMetrics:
        """Measurements of the whole job so far; `own` are those of the lead's part."""
        rows = [row._replace(metrics=own) if row.number == self._own else row for row in self._rows.values()]
        each = [row.metrics for row in rows]
        frames = [len(row.metrics.chunk_seconds) for row in rows]
        model = sum(part.model_seconds for part in each)
        firsts = [self._plan.parts[row.number].first for row in rows]
        return own.model_copy(
            update={
                "decode_seconds": sum(part.decode_seconds for part in each),
                "model_seconds": model,
                "encode_seconds": sum(part.encode_seconds for part in each),
                "chunk_seconds": [seconds for part in each for seconds in part.chunk_seconds][-CHUNKS_REMEMBERED:],
                "cuts": [first + cut for first, part in zip(firsts, each, strict=True) for cut in part.cuts][
                    :CUTS_REMEMBERED
                ],
                "skip_ratio": _mean([part.skip_ratio for part in each], frames),
                "reuse_ratio": _mean([part.reuse_ratio for part in each], frames),
                "speedup": sum(part.speedup * part.model_seconds for part in each) / model if model else 1.0,
            }
        )

    def segments(self) -> JobSegments:
        """The part of the job's document that tells about segments."""
        exact, warmed = self._plan.seams
        return JobSegments(
            total=len(self._plan.parts),
            done=sum(row.state == DONE for row in self._rows.values()),
            workers=self._workers,
            exact_seams=exact,
            warmed_seams=warmed,
            warmup_frames=WARM_UP,
        )


def _mean(values: list[float], weights: list[int]) -> float:
    """Weighted mean; 0 without weights."""
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else 0.0
