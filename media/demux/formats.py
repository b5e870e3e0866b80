"""The containers and codecs that libav may use on untrusted files, and the reason for each refusal.

This module holds the only list. `docs/formats.md` is generated from the titles and reasons.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Container(NamedTuple):
    """One demuxer."""

    short: str
    """Short name in facts of a file: mp4, mkv, avi, …"""
    title: str


WEBP: Final = "webp"
"""The only container that libav does not read: `media.demux.webp` does."""

CONTAINERS: Final = {
    "mov,mp4,m4a,3gp,3g2,mj2": Container("mp4", "MP4, QuickTime, 3GP, Motion JPEG 2000, AVIF sequences"),
    "matroska,webm": Container("mkv", "Matroska, WebM"),
    "avi": Container("avi", "AVI"),
    "asf": Container("wmv", "ASF, WMV"),
    "asf_o": Container("wmv", "ASF, WMV"),
    "flv": Container("flv", "Flash Video"),
    "live_flv": Container("flv", "Flash Video"),
    "kux": Container("flv", "KUX (Youku)"),
    "swf": Container("swf", "Shockwave Flash with embedded video"),
    "gif": Container("gif", "GIF animation"),
    "apng": Container("apng", "APNG animation"),
    WEBP: Container("webp", "WebP animation"),
    "mpegts": Container("ts", "MPEG transport stream, M2TS, AVCHD"),
    "mpeg": Container("mpg", "MPEG program stream, VOB"),
    "mpegvideo": Container("mpg", "MPEG-1 and MPEG-2, bare stream"),
    "m4v": Container("m4v", "MPEG-4 part 2, bare stream"),
    "h261": Container("h261", "H.261, bare stream"),
    "h263": Container("h263", "H.263, bare stream"),
    "h264": Container("h264", "H.264, bare stream"),
    "hevc": Container("hevc", "HEVC, bare stream"),
    "vvc": Container("vvc", "VVC (H.266), bare stream"),
    "obu": Container("obu", "AV1, bare stream"),
    "apv": Container("apv", "APV, bare stream"),
    "vc1": Container("vc1", "VC-1, bare stream"),
    "vc1test": Container("vc1", "VC-1, test bitstream (RCV)"),
    "cavsvideo": Container("cavs", "Chinese AVS, bare stream"),
    "dirac": Container("dirac", "Dirac, bare stream"),
    "dnxhd": Container("dnxhd", "DNxHD, bare stream"),
    "mjpeg": Container("mjpeg", "Motion JPEG, bare stream"),
    "mjpeg_2000": Container("j2k", "Motion JPEG 2000, bare stream"),
    "mpjpeg": Container("mjpeg", "Motion JPEG in MIME parts (web cameras)"),
    "ipu": Container("ipu", "Sony IPU, bare stream"),
    "ivf": Container("ivf", "IVF"),
    "yuv4mpegpipe": Container("y4m", "YUV4MPEG"),
    "nut": Container("nut", "NUT"),
    "ogg": Container("ogg", "Ogg"),
    "mxf": Container("mxf", "MXF"),
    "gxf": Container("gxf", "GXF"),
    "lxf": Container("lxf", "LXF"),
    "dv": Container("dv", "DV"),
    "wtv": Container("wtv", "Windows Television recording"),
    "ty": Container("ty", "TiVo recording"),
    "pva": Container("pva", "TechnoTrend PVA"),
    "rm": Container("rm", "RealMedia"),
    "ivr": Container("rm", "RealMedia recording (IVR)"),
    "nsv": Container("nsv", "Nullsoft Video"),
    "nuv": Container("nuv", "NuppelVideo (MythTV)"),
    "vivo": Container("vivo", "Vivo"),
    "cine": Container("cine", "Phantom Cine, developed pictures only"),
    "ser": Container("ser", "SER, grey and RGB pictures only"),
    "flic": Container("fli", "Autodesk FLI, FLC"),
    "anm": Container("anm", "Deluxe Paint animation"),
    "iff": Container("iff", "Amiga IFF animation"),
    "cdxl": Container("cdxl", "Commodore CDXL"),
    "mv": Container("mv", "Silicon Graphics Movie"),
    "dhav": Container("dav", "Dahua recorder (DAV)"),
    "hxvs": Container("hxvs", "HXVS camera"),
    "ifv": Container("ifv", "IFV recorder"),
    "iv8": Container("iv8", "IndigoVision recorder"),
    "luodat": Container("dat", "CCTV recorder (DAT)"),
    "lvf": Container("lvf", "LVF recorder"),
    "lmlm4": Container("lmlm4", "Linux Media Labs MPEG-4"),
    "mxg": Container("mxg", "Mobotix MxPEG"),
    "nc": Container("nc", "NC camera"),
    "msnwctcp": Container("msn", "MSN webcam"),
    "ingenient": Container("mjpeg", "Ingenient MJPEG"),
    "mtv": Container("mtv", "MTV (portable players)"),
    "pmp": Container("pmp", "PMP (PlayStation Portable)"),
    "4xm": Container("4xm", "4X Technologies (games)"),
    "argo_brp": Container("brp", "Argonaut BRP (games)"),
    "avs": Container("avs", "Argonaut Creature Shock (games)"),
    "bethsoftvid": Container("vid", "Bethesda VID (games)"),
    "bfi": Container("bfi", "Brute Force & Ignorance (games)"),
    "bink": Container("bik", "Bink (games)"),
    "bmv": Container("bmv", "Discworld II BMV (games)"),
    "c93": Container("c93", "Interplay C93 (games)"),
    "dfa": Container("dfa", "Chronomaster DFA (games)"),
    "dsicin": Container("cin", "Delphine CIN (games)"),
    "dxa": Container("dxa", "ScummVM DXA (games)"),
    "ea": Container("ea", "Electronic Arts (games)"),
    "film_cpk": Container("cpk", "Sega FILM, CPK (games)"),
    "gdv": Container("gdv", "Gremlin Digital Video (games)"),
    "hnm": Container("hnm", "Cryo HNM (games)"),
    "idcin": Container("cin", "id CIN (games)"),
    "ipmovie": Container("mve", "Interplay MVE (games)"),
    "jv": Container("jv", "Bitmap Brothers JV (games)"),
    "mm": Container("mm", "American Laser Games MM (games)"),
    "moflex": Container("moflex", "MobiClip MOFLEX (games)"),
    "mods": Container("mods", "MobiClip MODS (games)"),
    "mvi": Container("mvi", "Motion Pixels MVI (games)"),
    "paf": Container("paf", "Amazing Studio PAF (games)"),
    "pdv": Container("pdv", "PlayDate Video (games)"),
    "psxstr": Container("str", "Sony PlayStation STR (games)"),
    "rl2": Container("rl2", "RL2 (games)"),
    "roq": Container("roq", "id RoQ (games)"),
    "rpl": Container("rpl", "RPL, ARMovie (games)"),
    "sga": Container("sga", "Digital Pictures SGA (games)"),
    "siff": Container("vb", "Beam Software SIFF (games)"),
    "simbiosis_imx": Container("imx", "Simbiosis IMX (games)"),
    "smjpeg": Container("smjpeg", "Loki SMJPEG (games)"),
    "smk": Container("smk", "Smacker (games)"),
    "smush": Container("san", "LucasArts Smush (games)"),
    "thp": Container("thp", "Nintendo THP (games)"),
    "tiertexseq": Container("seq", "Tiertex SEQ (games)"),
    "tmv": Container("tmv", "8088flex TMV (games)"),
    "usm": Container("usm", "CRI USM (games)"),
    "vividas": Container("viv", "Vividas"),
    "vmd": Container("vmd", "Sierra VMD (games)"),
    "wc3movie": Container("mve", "Wing Commander III movie (games)"),
    "wsvqa": Container("vqa", "Westwood VQA (games)"),
    "xmv": Container("xmv", "Microsoft XMV (games)"),
    "yop": Container("yop", "Psygnosis YOP (games)"),
}
"""Accepted demuxers by libav's names. Each demuxer reads a single file."""

REFUSED_CONTAINERS: Final = {
    "open other files or connections that the file names": (
        "concat concatf dash hls imf image2 mlv rtp rtsp sap sdp vobsub webm_dash_manifest"
    ),
    "are devices": "alsa fbdev jack lavfi oss v4l2 x11grab",
    "are text that libav would draw": "adf bin idf tty xbin",
    "are the raw samples of a camera, which need developing": "r3d",
    "have no signature: any bytes would match": "bitpacked filmstrip rawvideo v210 v210x",
}
"""Reason → demuxers, beside those of sound, subtitles and still pictures."""


VIDEO_CODECS: Final = {
    "H.264, HEVC, VVC (H.266)": "h264 hevc vvc",
    "AV1, VP3 to VP9, Theora": "av1 libdav1d vp3 vp4 vp5 vp6 vp6a vp6f vp7 vp8 vp9 theora",
    "MPEG-1, MPEG-2, MPEG-4 part 2 (DivX, Xvid), Chinese AVS": (
        "mpeg1video mpeg2video mpegvideo mpeg4 msmpeg4v1 msmpeg4v2 msmpeg4 cavs ipu"
    ),
    "H.261, H.263, Sorenson Spark, Screen Video (Flash)": "h261 h263 h263i h263p flv flashsv flashsv2",
    "Windows Media Video 7 to 9, VC-1, Windows Media Screen": (
        "wmv1 wmv2 wmv3 wmv3image vc1 vc1image mss1 mss2 mts2 msa1"
    ),
    "RealVideo 1 to 6": "rv10 rv20 rv30 rv40 rv60",
    "Cinepak, Indeo 2 to 5, Microsoft Video 1 and RLE": "cinepak indeo2 indeo3 indeo4 indeo5 msvideo1 msrle",
    "QuickTime: Sorenson 1 and 3, Animation, Graphics, Video, 8BPS, Intermediate, Pixlet": (
        "svq1 svq3 qtrle smc rpza 8bps aic pixlet qdraw mjpegb"
    ),
    "Motion JPEG and relatives, JPEG 2000, JPEG-LS": "mjpeg amv sp5x smvjpeg avrn jpeg2000 jpegls mxpeg",
    "ProRes, ProRes RAW as developed pictures only, DNxHD, CineForm, DV, APV": (
        "prores prores_raw dnxhd cfhd dvvideo apv"
    ),
    "Canopus, NewTek, Matrox, Avid, Media 100, Hap, DXV, NotchLC": (
        "hq_hqa hqx cllc speedhq m101 avrp avui media100 hap dxv notchlc"
    ),
    "Dirac, Snow": "dirac snow",
    "Lossless: FFV1, HuffYUV, Ut Video, MagicYUV, Lagarith, SheerVideo and others": (
        "ffv1 huffyuv ffvhuff hymt utvideo magicyuv lagarith sheervideo loco mszh zlib vble ylc zerocodec"
    ),
    "Uncompressed": "rawvideo v210 v210x v308 v408 v410 012v y41p yuv4 r10k r210 targa_y216 frwu cyuv cljr cpia",
    "Screen recordings: TechSmith, CamStudio, ZMBV, Fraps, Dxtory and others": (
        "camtasia tscc2 camstudio zmbv fraps dxtory fic fmvc g2m lscr mscc mwsc rasc rscc scpr screenpresso srgc"
        " tdsc vmnc wcmv rtv1 vmix"
    ),
    "Animations and pictures: GIF, APNG, PNG, WebP, TIFF, BMP, TGA, SGI": "gif apng png webp tiff bmp targa sgi",
    "AVI of the nineties: TrueMotion, UltiMotion, Duck, Winnov, ATI VCR and others": (
        "truemotion1 truemotion2 truemotion2rt ultimotion wnv1 vcr1 xl asv1 asv2 aura aura2 aasc kmvc qpeg"
        " escape124 escape130 lead clearvideo mimic mv30 mvdv mvha prosumer agm arbc vqc kgv1 cdtoons nuv"
        " sgirle mvc1 mvc2 imm4 imm5"
    ),
    "Games: Smacker, Bink, RoQ, Interplay, Electronic Arts, Westwood, Sierra and others": (
        "smackvid binkvideo roqvideo idcinvideo interplayvideo 4xm anm argo avs bethsoftvid bfi bmv_video c93 cdxl"
        " dfa dsicinvideo dxa eacmv eamad eatgq eatgv eatqi flic gdv hnm4video iff jv mdec mmvideo mobiclip"
        " motionpixels paf_video pdv rl2 sanm sga simbiosis_imx thp tiertexseqvideo tmv vb vmdvideo vqavideo"
        " xan_wc3 xan_wc4 yop"
    ),
}
"""Title → libav's decoders."""

REFUSED_VIDEO_CODECS: Final = {
    "need a device that the jail does not reach": "…_amf …_cuvid …_qsv …_v4l2m2m",
    "draw text or karaoke": "ansi bintext cdgraphics idf xbin",
    "are still pictures, which occur in no video": (
        "alias_pix brender_pix cri dds dpx exr fits gem hdr msp2 pam pbm pcx pfm pgm pgmyuv pgx phm photocd pictor"
        " ppm psd ptx qoi sunrast txd vbn wbmp xbm xface xpm xwd"
    ),
    "are second decoders of codecs that libav decodes itself": "libvpx libvpx-vp9",
    "copy memory without decoding": "bitpacked vnull wrapped_avframe",
}
"""Reason → decoders."""

AUDIO_CODECS: Final = (
    "aac aac_latm mp3 mp3float mp2 mp2float mp1 mp1float ac3 eac3 dca truehd mlp opus libopus vorbis flac alac wavpack"
    " tta ape tak als shorten wmav1 wmav2 wmapro wmalossless wmavoice xma1 xma2 amrnb amrwb libopencore_amrnb"
    " libopencore_amrwb g722 g723_1 g726 g726le g728 g729 gsm gsm_ms speex ilbc qcelp evrc nellymoser truespeech"
    " cook sipr ralf real_144 real_288 atrac1 atrac3 atrac3al atrac3plus qdm2 qdmc mace3 mace6 imc iac on2avc"
    " metasound twinvq msnsiren siren dvaudio dolby_e s302m pcm_dvd pcm_bluray pcm_alaw pcm_mulaw pcm_u8 pcm_s8"
    " pcm_s8_planar pcm_s16le pcm_s16be pcm_s16le_planar pcm_s16be_planar pcm_u16le pcm_u16be pcm_s24le pcm_s24be"
    " pcm_s24le_planar pcm_u24le pcm_u24be pcm_s24daud pcm_s32le pcm_s32be pcm_s32le_planar pcm_u32le pcm_u32be"
    " pcm_s64le pcm_s64be pcm_f32le pcm_f32be pcm_f64le pcm_f64be pcm_lxf pcm_vidc pcm_sga adpcm_ms adpcm_ima_wav"
    " adpcm_ima_qt adpcm_ima_amv adpcm_ima_smjpeg adpcm_ima_ws adpcm_ima_dk3 adpcm_ima_dk4 adpcm_ima_ea_eacs"
    " adpcm_ima_ea_sead adpcm_ima_apc adpcm_ima_moflex adpcm_ima_iss adpcm_ima_rad adpcm_ima_xbox adpcm_swf"
    " adpcm_yamaha adpcm_ct adpcm_4xm adpcm_adx adpcm_ea adpcm_ea_maxis_xa adpcm_ea_r1 adpcm_ea_r2 adpcm_ea_r3"
    " adpcm_ea_xas adpcm_argo adpcm_psx adpcm_thp adpcm_thp_le adpcm_xa adpcm_vima adpcm_sanyo adpcm_sbpro_2"
    " adpcm_sbpro_3 adpcm_sbpro_4 adpcm_agm adpcm_dtk roq_dpcm interplay_dpcm xan_dpcm sol_dpcm gremlin_dpcm"
    " sdx2_dpcm cbd2_dpcm derf_dpcm wady_dpcm 8svx_exp 8svx_fib binkaudio_dct binkaudio_rdft bmv_audio dsicinaudio"
    " fastaudio hca paf_audio smackaud vmdaudio ws_snd1"
)
SUBTITLE_CODECS: Final = "mov_text subrip srt ass ssa webvtt text dvdsub dvbsub pgssub xsub"

VIDEO_DECODERS: Final = frozenset(" ".join(VIDEO_CODECS.values()).split())
"""libav's names of all accepted video decoders."""

OPTIONS: Final = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(name for name in CONTAINERS if name != WEBP),
    "codec_whitelist": ",".join(sorted({*VIDEO_DECODERS, *AUDIO_CODECS.split(), *SUBTITLE_CODECS.split()})),
}
"""libav's options for opening a file."""
