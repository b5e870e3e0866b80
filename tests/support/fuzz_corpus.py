"""The fuzzer's corpus: a file for each accepted container and decoder, real where libav can write one.

Other decoders get noise under their four letters in an AVI file, and other demuxers get their signature and noise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from tests.support.footage import KINDS, write_kind
from tests.support.media import write_clip

_LETTERS: Final = """
    012v=012v 8bps=8BPS aasc=AASC agm=AGM0 aic=icod arbc=ARBC asv1=ASV1 asv2=ASV2 aura=AURA aura2=AUR2 av1=AV01
    avrp=AVrp camstudio=CSCD camtasia=tscc cavs=CAVS cfhd=CFHD cinepak=cvid clearvideo=UCOD cljr=CLJR cllc=CLLC
    cyuv=CYUV dirac=drac dnxhd=AVdn dvvideo=dvsd dxtory=xtor dxv=DXD3 escape130=E130 ffv1=FFV1 ffvhuff=FFVH fic=FICV
    flashsv=FSV1 flv=FLV1 fmvc=FMVC fraps=FPS1 frwu=FRWU g2m=G2M4 h261=H261 h263=H263 h263i=I263 h264=H264 hap=Hap1
    hevc=HEVC hq_hqa=CUVC hqx=CHQX huffyuv=HFYU hymt=HYMT imm4=IMM4 imm5=IMM5 indeo2=RT21 indeo3=IV32 indeo4=IV41
    indeo5=IV50 jpeg2000=MJ2C jpegls=MJLS kgv1=KGV1 kmvc=KMVC lagarith=LAGS lead=LEAD loco=LOCO lscr=LSCR m101=M101
    magicyuv=M8RG mimic=LM20 mjpeg=MJPG mjpegb=mjpb mpeg1video=mpg1 mpeg2video=mpg2 mpeg4=XVID msa1=MSA1 mscc=MSCC
    msmpeg4=DIV3 msmpeg4v1=MPG4 msmpeg4v2=MP42 mss1=MSS1 mss2=MSS2 msvideo1=CRAM mszh=MSZH mts2=MTS2 mv30=MV30
    mvdv=MVDV mvha=MVHA mwsc=MWSC notchlc=NLC1 pixlet=pxlt png=MPNG prores=apch prosumer=BT20 qpeg=Q1.0 qtrle=rle_
    r10k=R10k r210=r210 rasc=RASC rpza=rpza rscc=ISCC rtv1=RTV1 rv40=RV40 rv60=RV60 scpr=SCPR screenpresso=SPV1
    smc=smc_ snow=SNOW sp5x=SP54 speedhq=SHQ2 srgc=SRGC svq1=SVQ1 svq3=SVQ3 targa=tga_ tdsc=TDSC theora=theo
    tiff=tiff truemotion1=DUCK truemotion2=TM20 truemotion2rt=TR20 tscc2=TSC2 ultimotion=ULTI utvideo=ULRG v210=v210
    vble=VBLE vc1=WVC1 vcr1=VCR1 vmix=VMX1 vmnc=VMnc vp3=VP31 vp4=VP40 vp5=VP50 vp6=VP62 vp6a=VP6A vp6f=VP6F
    vp7=VP70 vp8=VP80 vp9=VP90 vqc=VQC1 vvc=VVC1 wcmv=WCMV wmv1=WMV1 wmv2=WMV2 wmv3=WMV3 wmv3image=WMVP wnv1=WNV1
    xan_wc4=Xxan xl=VIXL y41p=Y41P ylc=YLC0 zerocodec=ZECO zlib=ZLIB zmbv=ZMBV
"""
LETTERS: Final = dict(pair.split("=") for pair in _LETTERS.split())
"""Decoder → four letters of an AVI file."""

SIGNATURES: Final = {
    "4xm": b"RIFF\0\x10\0\x004XMV",
    "anm": b"LPF \x10\0\x01\0\0\0\0\0\0\0\0\0ANIM",
    "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "avs": b"wW\x10\0" + struct.pack("<9H", 320, 240, 0, 15, 60, 0, 1, 0, 0),
    "bethsoftvid": b"VID\0",
    "bfi": b"BF&I",
    "bink": b"BIKi\0\x10\0\0" + struct.pack("<10I", 6, 4096, 6, 64, 48, 25, 1, 0, 0, 0),
    "cine": b"CI\x2c\0\0\0\1\0",
    "dhav": b"DHAV\xfd\1\0\0",
    "ea": b"SCHl\0\0\0\x20GSTR",
    "gdv": struct.pack("<IHHHHHHHHH", 0x29111994, 0, 6, 25, 0, 0, 0, 8, 0, 0),
    "hnm": b"HNM4\0\0\0\0\x40\1\xc8\0",
    "iff": b"FORM\0\0\x20\0ANIMFORM\0\0\x10\0ILBMBMHD\0\0\0\x14",
    "ipmovie": b"Interplay MVE File\x1a\0\x1a\0\0\x01\x33\x11",
    "jv": b"JV00 Compression by John M Phillips Copyright (C) 1995 The Bitmap Brothers Ltd.",
    "lmlm4": struct.pack(">HHI", 0, 0, 64) + b"\0\0\1\xb6",
    "lxf": b"LEITCH\0\0",
    "mods": b"MODSN3\n\0",
    "mv": b"MOVI\0\1\0\2",
    "nc": b"\0\0\1\xa5\0\0\x20\0",
    "nsv": b"NSVf\0\0\x10\0",
    "nuv": b"NuppelVideo\x000.05\0",
    "paf": b"Packed Animation File V1.0\n(c) 1992-96 Amazing Studio\n\x1a",
    "pdv": b"Playdate VID\0\0\0\0\6\0\0\0",
    "pmp": b"pmpm\1\0\0\0",
    "pva": b"AV\1\0U\0\0\x10",
    "rl2": b"FORM\0\0\x20\0RLV2",
    "rm": b".RMF\0\0\0\x12\0\0",
    "rpl": b"ARMovie\nname\nmaker\nby\n130\n64\n48\n16\n25.0\n",
    "ser": b"LUCAM-RECORDER",
    "siff": b"SIFF\0\0\x20\0VBV1VBHD\0\0\0\x20\1\0",
    "smk": b"SMK2" + struct.pack("<5I", 64, 48, 6, 40, 0),
    "smush": b"SANM\0\0\x20\0SHDR\0\0\0\x20",
    "swf": b"FWS\6\0\x10\0\0\x78\0\5\x5f\0\0\x0f\xa0\0\0\x0c\1\0",
    "thp": b"THP\0\0\1\0\0",
    "usm": b"CRID\0\0\x10\0\0\x18\0\0",
    "vc1test": b"\6\0\0\xc5\4\0\0\0\x4e\x29\x09\0" + struct.pack("<III", 48, 64, 12),
    "vividas": b"vividas03",
    "vivo": b"\0\x40\r\nVersion:Vivo/2.0\r\n",
    "vvc": b"\0\0\0\1\0\x79\0\0\0\0\1\0\x81",
    "wc3movie": b"FORM\0\0\x20\0MOVE_PC_",
    "wsvqa": b"FORM\0\0\x20\0WVQAVQHD\0\0\0\x2a",
    "wtv": bytes.fromhex("b7d800203749da11a64e0007e95ead8d"),
    "xmv": bytes(12) + b"xobX\4\0\0\0",
}
"""Demuxer → first bytes of its files."""


_BARE: Final = {
    "mpeg2video": "vob",
    "mpeg1video": "mpeg1video",
    "rawvideo": "yuv4mpegpipe",
    "libvpx": "ivf",
    "libvpx-vp9": "webm",
    "libx264": "h264",
    "libx265": "hevc",
    "mpeg4": "m4v",
    "mjpeg": "mpjpeg",
}
"""Encoder → container, beside those of `tests.support.footage`."""


def corpus(folder: Path) -> list[Path]:
    """Write the corpus: a few hundred files of some kilobytes."""
    random = np.random.default_rng(1)
    return [*_real(folder), *noise(folder, random), *headers(folder, random)]


def plain(folder: Path) -> Iterator[Path]:
    """Files of four common containers and codecs."""
    yield write_clip(folder / "plain.mp4", times=range(6))
    yield write_clip(folder / "plain.mkv", times=range(6), codec="mpeg4")
    yield write_clip(folder / "plain.avi", times=range(6), codec="mjpeg", pixel_format="yuvj420p")
    yield write_clip(folder / "plain.ts", times=range(6), codec="mpeg2video", container_format="mpegts")


def _real(folder: Path) -> Iterator[Path]:
    yield from plain(folder)
    for codec, container in _BARE.items():
        pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        path = folder / f"bare.{container}"
        yield write_clip(path, times=range(6), codec=codec, container_format=container, pixel_format=pixel_format)
    for number, kind in enumerate(KINDS):
        yield write_kind(folder / f"real{number}.{kind.suffix}", kind)


def noise(folder: Path, random: np.random.Generator) -> Iterator[Path]:
    """AVI files of random packets, one for each decoder of `LETTERS`."""
    for decoder, letters in LETTERS.items():
        path = folder / f"noise-{decoder}.avi"
        packets = [random.bytes(int(random.integers(8, 600))) for _ in range(4)]
        path.write_bytes(avi(letters.replace("_", " ").encode(), packets, extra=random.bytes(40)))
        yield path


def headers(folder: Path, random: np.random.Generator) -> Iterator[Path]:
    """Files of a signature and random bytes, one for each demuxer of `SIGNATURES`."""
    for demuxer, signature in SIGNATURES.items():
        path = folder / f"header-{demuxer}.bin"
        # Small numbers are likelier sizes than random ones.
        numbers = random.integers(0, 64, 1000).astype("<u2").tobytes()
        path.write_bytes(signature + numbers + random.bytes(2000))
        yield path


def avi(letters: bytes, packets: list[bytes], *, extra: bytes) -> bytes:
    """An AVI file of 64×48 pixels with packets of any content."""
    size = sum(map(len, packets))
    main = struct.pack("<14I", 40000, size, 0, 0x10, len(packets), 0, 1, 600, 64, 48, 0, 0, 0, 0)
    numbers = 0, 0, 0, 0, 1, 25, 0, len(packets), 600, 0, 0, 0, 0, 64, 48
    stream = struct.pack("<4s4sI2HIIIIIIII4H", b"vids", letters, *numbers)
    picture = struct.pack("<IiiHH4sIiiII", 40 + len(extra), 64, 48, 1, 24, letters, 9216, 0, 0, 0, 0) + extra
    lists = _chunk(b"avih", main) + _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", picture))
    movie = b"".join(_chunk(b"00dc", packet) for packet in packets)
    return _chunk(b"RIFF", b"AVI " + _list(b"hdrl", lists) + _list(b"movi", movie))


def _list(kind: bytes, data: bytes) -> bytes:
    return _chunk(b"LIST", kind + data)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
