"""Choosing the model of a job: by name, or by the size of the result."""

from __future__ import annotations

from typing import NamedTuple

from jobs.schema import JobOptions
from media.spec import enlargement
from model.engine.upscaler import Upscaler
from model.zoo.cache import ModelCache


class Choice(NamedTuple):
    """The model of a job."""

    model: Upscaler
    natural: int
    """Enlargement of a result without a wanted size."""


def choose(models: ModelCache[Upscaler], options: JobOptions, width: int, height: int) -> Choice:
    """Load the model for a source of `width` × `height` pixels. Raises ModelError."""
    natural = models.scale(models.resolved(options.model))
    factor = enlargement(width, height, scale=options.scale, wanted_height=options.height, natural=natural)
    return Choice(models.get(options.model, factor), natural)
