"""Turns the OUTPUT argument into a sink, and refuses an output that does not fit the input."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import IMAGES, VIDEO_OUTPUTS, distinct_names
from difix3d_ns.frames.enhance_options import EnhanceConfig
from difix3d_ns.frames.picture_files import LARGEST_SIDES
from difix3d_ns.frames.sinks import PictureSink, Sink
from difix3d_ns.frames.sources import PictureSource, Source, VideoSource, frame_rate
from difix3d_ns.frames.video_sink import VideoSink

if TYPE_CHECKING:
    from difix3d_ns.videos.encodings import Encoding


def open_sink(config: EnhanceConfig, source: Source, settings: dict[str, str]) -> Sink:
    """Returns the sink for the configured output, without writing anything.

    Args:
        config: the command's options.
        source: the frames.
        settings: options that must be the same for all pieces of one video.

    Raises:
        Difix3DError: the output does not fit the frames or the options, or would be among the input files.
    """
    output = config.output
    suffix = output.suffix.lower()
    one_picture = isinstance(source, PictureSource) and source.files == [config.input]
    _require_apart(config.input, output)
    to_folder = output.is_dir() or not suffix
    config.require_used(isinstance(source, VideoSource), not to_folder and suffix in VIDEO_OUTPUTS, to_folder)
    if to_folder:
        files = [output / name for name in _file_names(source, config.image_format)]
        _require_no_input(source, files)
        _require_fitting_sizes(source, files)
        return PictureSink(source, files, output)
    if suffix in VIDEO_OUTPUTS and not one_picture:
        return _video_sink(config, source, settings)
    if suffix in IMAGES and one_picture:
        _require_no_input(source, [output])
        _require_fitting_sizes(source, [output])
        return PictureSink(source, [output], None)
    if suffix in (*IMAGES, *VIDEO_OUTPUTS):
        fitting = "an image or a folder" if one_picture else "a folder or a video"
        raise Difix3DError(f"{config.input} cannot be written as {output}: give {fitting} as output.")
    raise Difix3DError(
        f"{output} has an unknown extension: use {', '.join(IMAGES)} for images, "
        f"{', '.join(VIDEO_OUTPUTS)} for videos, and no extension for a folder."
    )


def _video_sink(config: EnhanceConfig, source: Source, settings: dict[str, str]) -> VideoSink:
    rate = frame_rate(source, config.fps)
    is_video = isinstance(source, VideoSource)
    if rate is None:
        raise Difix3DError("images have no frame rate: add --fps, such as --fps 30, to make a video from them.")
    if is_video and config.fps is not None:
        raise Difix3DError(f"--fps is only for videos made from images: {config.input} keeps its own frame times.")
    first = next((index for index in range(len(source)) if source.size(index) is not None), 0)
    for index in range(len(source)):
        size, expected = source.size(index), source.size(first)
        if size is not None and expected is not None and size != expected:
            raise Difix3DError(
                f"all frames of a video need the same size: {source.name(first)} has {expected[1]} x {expected[0]} "
                f"pixels and {source.name(index)} has {size[1]} x {size[0]}."
            )
    if is_video and config.audio:
        from difix3d_ns.videos.joining import require_audio_fits

        require_audio_fits(config.input, config.output)
    return VideoSink(
        source,
        config.output,
        rate,
        config.crf,
        _encoding(config, source),
        config.frames_per_piece,
        settings,
        audio=is_video and config.audio,
        keep_last_frames=config.previous_frame_as_reference,
    )


def _encoding(config: EnhanceConfig, source: Source) -> Encoding:
    """The encoding of a video of these frames."""
    # Imported here because it loads the video libraries.
    from difix3d_ns.videos.encodings import choose_encoding

    if isinstance(source, VideoSource):
        transparent, bits = source.video.transparent, source.video.bits
    else:
        assert isinstance(source, PictureSource)
        kinds = [kind for kind in source.kinds if kind is not None]
        transparent = any(kind.transparent for kind in kinds)
        bits = max((kind.bits for kind in kinds), default=8)
    return choose_encoding(config.output.suffix, transparent, 8 if config.video_bits == "8" else bits)


def _file_names(source: Source, image_format: str) -> list[Path]:
    names = [source.name(index) for index in range(len(source))]
    if isinstance(source, PictureSource) and len(set(names)) < len(names):  # a pattern over several folders
        bare = distinct_names([Path(os.path.abspath(file)).with_suffix("") for file in source.files])
        names = [Path(f"{stem}{name.suffix}") for stem, name in zip(bare, names, strict=True)]
    if image_format != "same":
        names = [name.with_suffix(f".{image_format}") for name in names]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise Difix3DError(
            f"{count} frames would be written to the same file {name}: rename them, or leave out --image-format."
        )
    return names


def _require_apart(given: Path, output: Path) -> None:
    if not given.is_dir():
        return
    inside, folder = Path(os.path.realpath(output)), Path(os.path.realpath(given))
    if inside == folder or folder in inside.parents:
        raise Difix3DError(f"the output {output} is inside the input folder {given}: choose a place outside it.")


def _require_no_input(source: Source, files: list[Path]) -> None:
    if not isinstance(source, PictureSource):
        return
    inputs = {os.path.realpath(file) for file in source.files}
    for file in files:
        if os.path.realpath(file) in inputs:
            raise Difix3DError(f"the output {file} is also an input: choose another output.")


def _require_fitting_sizes(source: Source, files: list[Path]) -> None:
    """Raises Difix3DError if a frame is larger than the format of its file can hold."""
    for index, file in enumerate(files):
        most = LARGEST_SIDES.get(file.suffix.lower())
        size = None if most is None else source.size(index)
        if most is not None and size is not None and max(size) > most:
            raise Difix3DError(
                f"{source.name(index)} has {size[1]} x {size[0]} pixels, and {file.suffix} files can hold at most "
                f"{most} on a side: choose another format, such as png."
            )
