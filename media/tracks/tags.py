"""Tags of the source that are also true of the result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_NOT_COPIED: Final = re.compile(
    # Facts of the source's encoding, and mkvmerge's statistics (with a language suffix if tags have one).
    r"major_brand|minor_version|compatible_brands|encoder|encoding_tool|vendor_id"
    r"|(bps|duration|number_of_frames|number_of_bytes|_statistics_.*)(-.*)?",
    re.IGNORECASE,
)


def copied_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a file or track to copy to the result."""
    return {name: value for name, value in tags.items() if not _NOT_COPIED.fullmatch(name)}
