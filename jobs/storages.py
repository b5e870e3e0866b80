"""The kinds of storage: the data folder, or a bucket."""

from __future__ import annotations

from jobs.settings import Settings
from jobs.storage import Storage


def open_storage(settings: Settings) -> Storage:
    """Create the storage of the settings, without a request. Raises InvalidRequest for unusable settings."""
    if not settings.storage:
        return Storage.from_settings(settings)
    from jobs.object_storage import ObjectStorage

    return ObjectStorage.from_settings(settings)
