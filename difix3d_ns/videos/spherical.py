"""Metadata that marks a video as spherical for players."""

from __future__ import annotations

from pathlib import Path

import av
from av.error import FFmpegError
from nerfstudio.scripts.render import insert_spherical_metadata_into_file

from difix3d_ns.files import part_of, publish, telling_errors


def mark_as_spherical(video: Path) -> None:
    """Adds the metadata of equirectangular frames to an MP4 file; other containers are left unchanged.

    Raises:
        Difix3DError: the file cannot be written.
    """
    if video.suffix.lower() != ".mp4":
        return
    part = part_of(video)
    try:
        with telling_errors(video, FFmpegError):
            # nerfstudio needs a file with the index at its end, so the packets are copied into one.
            with av.open(str(video.absolute())) as source, av.open(str(part.absolute()), "w", format="mp4") as target:
                stream = target.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(source.streams.video[0]):
                    if packet.dts is not None:
                        packet.stream = stream
                        target.mux(packet)
            insert_spherical_metadata_into_file(part)
            publish(part, video)
    finally:
        part.unlink(missing_ok=True)
