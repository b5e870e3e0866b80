"""Limits of QuickTime's container (mov): a fixed list of languages, and no dispositions."""

from __future__ import annotations

from typing import Final

from av.stream import Disposition, Stream


def _words(text: str) -> list[str]:
    return text.split()


_OLDER_NAMES: Final = dict(
    pair.split(":")
    for pair in _words("""
        deu:ger nld:dut swe:sve ell:gre isl:ice zho:chi sqi:alb hye:arm kat:geo bod:tib mya:bur msa:may cym:wel eus:baq
        rum:ron cze:ces slo:slk fre:fra mkd:mac
    """)
)
_LANGUAGES: Final = frozenset(
    _words("""
        eng fra ger ita dut sve spa dan por nor heb jpn ara fin gre ice mlt tur chi urd hin tha kor lit pol hun est lav
        rus alb ron ces slk slv yid mac bul ukr bel uzb kaz aze arm geo mol kir tgk tuk mon pus kur kas snd tib nep san
        mar ben asm guj ori mal kan tam tel bur khm lao vie ind tgl may amh tir orm som swa run mlg epo wel baq cat lat
        que grn aym tat uig dzo jav
    """)
)
"""Languages with a QuickTime language code, by libav's table."""


def adapt_to_quicktime(track: Stream, label: str, warnings: list[str]) -> None:
    """Translate a track's language to QuickTime's code, and warn about a language or disposition that mov can't hold.

    Args:
        label: the track's name at the beginning of a warning.
    """
    language = track.metadata.get("language", "und")
    language = _OLDER_NAMES.get(language, language)
    if language in _LANGUAGES:
        track.metadata["language"] = language
    elif language != "und":
        warnings.append(f"{label} loses its language ({language}) because mov can't hold it.")
        del track.metadata["language"]
    if marks := track.disposition & ~(Disposition.default | Disposition.attached_pic):
        names = ", ".join(str(mark.name) for mark in Disposition if mark & marks)
        warnings.append(f"{label} loses its disposition ({names}) because mov can't hold it.")
