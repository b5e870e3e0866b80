"""Tags of the source that are true of the result, too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_NOT_OURS: Final = re.compile(
    # How the source was written, and what mkvmerge counted in it (with a language behind it, where tags have one).
    r"major_brand|minor_version|compatible_brands|encoder|vendor_id"
    r"|(bps|duration|number_of_frames|number_of_bytes|_statistics_.*)(-.*)?",
    re.IGNORECASE,
)


def kept(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a file or track that go along."""
    return {name: value for name, value in tags.items() if not _NOT_OURS.fullmatch(name)}
