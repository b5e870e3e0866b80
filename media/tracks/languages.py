"""Language codes: BCP 47 and two letters (ISO 639-1) → three letters (ISO 639-2), the only ones in MP4's tracks."""

from __future__ import annotations

import re
from typing import Final

from av.stream import Stream

_PAIRS: Final = """
    aa:aar ab:abk ae:ave af:afr ak:aka am:amh an:arg ar:ara as:asm av:ava ay:aym az:aze ba:bak be:bel bg:bul bh:bih
    bi:bis bm:bam bn:ben bo:bod br:bre bs:bos ca:cat ce:che ch:cha co:cos cr:cre cs:ces cu:chu cv:chv cy:cym da:dan
    de:deu dv:div dz:dzo ee:ewe el:ell en:eng eo:epo es:spa et:est eu:eus fa:fas ff:ful fi:fin fj:fij fo:fao fr:fra
    fy:fry ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv ha:hau he:heb hi:hin ho:hmo hr:hrv ht:hat hu:hun hy:hye hz:her
    ia:ina id:ind ie:ile ig:ibo ii:iii ik:ipk in:ind io:ido is:isl it:ita iu:iku iw:heb ja:jpn ji:yid jv:jav jw:jav
    ka:kat kg:kon ki:kik kj:kua kk:kaz kl:kal km:khm kn:kan ko:kor kr:kau ks:kas ku:kur kv:kom kw:cor ky:kir la:lat
    lb:ltz lg:lug li:lim ln:lin lo:lao lt:lit lu:lub lv:lav mg:mlg mh:mah mi:mri mk:mkd ml:mal mn:mon mo:ron mr:mar
    ms:msa mt:mlt my:mya na:nau nb:nob nd:nde ne:nep ng:ndo nl:nld nn:nno no:nor nr:nbl nv:nav ny:nya oc:oci oj:oji
    om:orm or:ori os:oss pa:pan pi:pli pl:pol ps:pus pt:por qu:que rm:roh rn:run ro:ron ru:rus rw:kin sa:san sc:srd
    sd:snd se:sme sg:sag sh:srp si:sin sk:slk sl:slv sm:smo sn:sna so:som sq:sqi sr:srp ss:ssw st:sot su:sun sv:swe
    sw:swa ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk tl:tgl tn:tsn to:ton tr:tur ts:tso tt:tat tw:twi ty:tah ug:uig
    uk:ukr ur:urd uz:uzb ve:ven vi:vie vo:vol wa:wln wo:wol xh:xho yi:yid yo:yor za:zha zh:zho zu:zul
"""
_THREE_LETTERS: Final = dict(pair.split(":") for pair in _PAIRS.split())
_TAG: Final = re.compile(r"([A-Za-z]{2,3})([-_][A-Za-z0-9]{1,8})*")
"""BCP 47, with the underscore of POSIX locales."""


def three_letters(language: str) -> str | None:
    """The ISO 639-2 code of a language: en-US → eng. None: not a known code."""
    found = _TAG.fullmatch(language)
    if found is None:
        return None
    primary = found[1].lower()
    return primary if len(primary) == 3 else _THREE_LETTERS.get(primary)


def adapt_language(track: Stream, kind: str, label: str, warnings: list[str]) -> None:
    """Translate a track's language to three letters, and warn about a language without a three-letter code.

    Args:
        kind: the container.
        label: the track's name at the beginning of a warning.
    """
    language = track.metadata.get("language")
    if not language:
        return
    code = three_letters(language)
    if code is None:
        warnings.append(f"{label} loses its language ({language[:40]}) because {kind} can't hold it.")
        del track.metadata["language"]
    else:
        track.metadata["language"] = code


def extended(language: str | None) -> str | None:
    """The language by BCP 47, if it says more than three letters can: a region, a script, a dialect."""
    if language is None or three_letters(language) is None or len(language) <= 3:
        return None
    return language.replace("_", "-")
