"""What an output cannot keep of its input, in sentences that say what to do instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from difix3d_ns.frames.enhance_options import EnhanceConfig
from difix3d_ns.frames.picture_files import DEEP_FORMATS, NO_ALPHA_FORMATS, FileKind
from difix3d_ns.frames.sinks import PictureSink, Sink
from difix3d_ns.frames.sources import PictureSource, Source, VideoSource
from difix3d_ns.frames.video_sink import VideoSink

if TYPE_CHECKING:
    from difix3d_ns.videos.reader import VideoReader


def losses(config: EnhanceConfig, source: Source, sink: Sink) -> list[str]:
    """One sentence for each property of the input that the output loses, and for each unusual choice of codec."""
    if isinstance(source, PictureSource) and isinstance(sink, PictureSink):
        return _images_to_images(source, sink)
    if isinstance(source, PictureSource) and isinstance(sink, VideoSink):
        return _images_to_video(source, sink, config)
    if isinstance(source, VideoSource) and isinstance(sink, PictureSink):
        return _video_to_images(source.video, sink)
    if isinstance(source, VideoSource) and isinstance(sink, VideoSink):
        return _video_to_video(source.video, sink, config)
    return []


def _images_to_images(source: PictureSource, sink: PictureSink) -> list[str]:
    pairs = [(kind, file.suffix.lower()) for kind, file in zip(source.kinds, sink.files, strict=True) if kind]
    return _sentences(
        _share(pairs, lambda kind, suffix: kind.transparent and suffix in NO_ALPHA_FORMATS, _no_alpha),
        _share(pairs, lambda kind, suffix: kind.bits > 8 and suffix not in DEEP_FORMATS, partial(_eight_bits, 16)),
        _share(
            pairs,
            lambda kind, suffix: kind.profile and kind.bits > 8 and suffix in DEEP_FORMATS and suffix != ".png",
            lambda files, share: (
                f"The colour profile is dropped{share}, because 16-bit {files} files are written "
                "without one: to keep it, write PNG files."
            ),
        ),
        *_lost_everywhere([kind for kind, _ in pairs]),
        _share(
            pairs,
            lambda kind, _: kind.exif,
            lambda _, share: f"EXIF data is not copied{share}: to copy it, use a program such as exiftool.",
        ),
    )


def _images_to_video(source: PictureSource, sink: VideoSink, config: EnhanceConfig) -> list[str]:
    kinds = [kind for kind in source.kinds if kind]
    transparent = any(kind.transparent for kind in kinds)
    return _sentences(
        *_encoding(sink, config, transparent, max((kind.bits for kind in kinds), default=8)),
        *_lost_everywhere(kinds),
        "The colour profile of the images is dropped, because videos are written without one: convert the images to "
        "sRGB first."
        if any(kind.profile for kind in kinds)
        else "",
    )


def _video_to_images(video: VideoReader, sink: PictureSink) -> list[str]:
    suffix = sink.files[0].suffix.lower()
    times = "the frame rate" if video.steady else "the varying frame times"
    audio = " or the audio" if video.has_audio else ""
    return _sentences(
        _no_alpha(suffix, "") if video.transparent and suffix in NO_ALPHA_FORMATS else "",
        _eight_bits(video.bits, suffix, "") if video.bits > 8 and suffix not in DEEP_FORMATS else "",
        f"Images do not keep {times}{audio}: for a video of them, give --fps {float(video.fps):.5g}, or clean "
        f"{video.file} into a video.",
        f"The pixels of {video.file} are {float(video.pixel_aspect):.3g} times as wide as high, which images do not "
        "record: scale the video to square pixels first."
        if video.pixel_aspect != 1
        else "",
        f"Images do not record that the colours of {video.file} are {_color_space(video)}, so they look pale: convert "
        "the video to SDR and BT.709 first."
        if _color_space(video)
        else "",
        _interlaced(video),
    )


def _video_to_video(video: VideoReader, sink: VideoSink, config: EnhanceConfig) -> list[str]:
    encoding = sink.encoding
    coarser = "420" in encoding.format_of(video.height, video.width) and video.chroma != "4:2:0"
    extras = ", ".join(video.extras)
    return _sentences(
        *_encoding(sink, config, video.transparent, video.bits),
        f"Colours are stored at half the width and height (4:2:0) instead of {video.chroma}: to keep their resolution, "
        "choose a folder as output."
        if coarser
        else "",
        f"The output does not record that pixels are {float(video.pixel_aspect):.3g} times as wide as high: scale the "
        "video to square pixels first, or choose a .mov video."
        if video.pixel_aspect != 1 and not encoding.keeps_pixel_aspect
        else "",
        f"The video stays {_color_space(video)}, but the network takes its values for SDR: if colours change, convert "
        "the video to SDR first."
        if video.colors.hdr
        else "",
        _interlaced(video),
        f"These parts of {video.file} are not copied: {extras}; another program, such as ffmpeg, can add them."
        if extras
        else "",
    )


def _interlaced(video: VideoReader) -> str:
    if not video.interlaced:
        return ""
    return (
        f"{video.file} is interlaced, and the output is not: the two fields of a frame are cleaned as one image, so "
        "deinterlace the video first."
    )


def _color_space(video: VideoReader) -> str:
    """Names of the transfer function and the primaries, if images would not show them right."""
    hdr = f"HDR ({video.colors.hdr})" if video.colors.hdr else ""
    return " in ".join(filter(None, (hdr, video.colors.wide_gamut)))


def _encoding(sink: VideoSink, config: EnhanceConfig, transparent: bool, bits: int) -> list[str]:
    """What the codec loses, and which codec it is if it is not the usual one."""
    encoding, suffix = sink.encoding, sink.output.suffix
    sentences = []
    if encoding.alpha:
        sentences.append(f"The frames are transparent, so the video is written as {encoding.name} with alpha.")
    elif transparent:
        sentences.append(
            f"Transparent pixels are composited over black, because {suffix} videos are written without alpha: to keep "
            "it, choose a .mov or .mkv video, or a folder."
        )
    elif encoding.bits > 8:
        sentences.append(
            f"The video is written as {encoding.name}, which some players cannot show: for one that all players show, "
            "add --video-bits 8."
        )
    if bits > encoding.bits and (config.video_bits == "same" or encoding.alpha):
        where = "a folder, or a .mov video for 10 bits" if encoding.alpha and encoding.bits == 8 else "a folder"
        sentences.append(
            f"{_bits(bits, encoding.bits)}, because the video is written as {encoding.name}: to keep them, choose "
            f"{where}."
        )
    if not encoding.uses_crf and config.crf != EnhanceConfig.crf:
        sentences.append(f"--crf {config.crf} is not used, because ProRes has a quality of its own.")
    return sentences


def _lost_everywhere(kinds: Sequence[FileKind]) -> list[str]:
    """What neither images nor videos keep of image files."""
    pairs = [(kind, "") for kind in kinds]
    return [
        _share(
            pairs,
            lambda kind, _: kind.animated,
            lambda _, share: (
                f"Only the first image of a file is cleaned{share}, although it holds several: split it "
                "into files first."
            ),
        ),
        _share(
            pairs,
            lambda kind, _: kind.cmyk,
            lambda _, share: (
                f"CMYK colours become RGB{share}, without their profile: convert the images to sRGB first."
            ),
        ),
    ]


def _no_alpha(files: str, share: str) -> str:
    return (
        f"Transparent pixels are composited over black{share}, because {files} files hold no alpha: to keep it, write "
        "PNG, TIFF or WebP files."
    )


def _eight_bits(bits: int, files: str, share: str) -> str:
    return f"{_bits(bits, 8)}{share}, because {files} files hold no more: to keep them, write PNG or TIFF files."


def _bits(before: int, after: int) -> str:
    return f"{before} bits per channel become {after}"


def _share(
    pairs: Sequence[tuple[FileKind, str]],
    loses: Callable[[FileKind, str], bool],
    sentence: Callable[[str, str], str],
) -> str:
    """The sentence, with the extensions and the number of the files that lose something; "" if none does."""
    suffixes = Counter(suffix for kind, suffix in pairs if loses(kind, suffix))
    count, total = sum(suffixes.values()), len(pairs)
    if count == 0:
        return ""
    share = "" if total == 1 else f" (all {total} images)" if count == total else f" ({count} of {total} images)"
    return sentence(" and ".join(sorted(suffixes)), share)


def _sentences(*sentences: str) -> list[str]:
    return [sentence for sentence in sentences if sentence]
