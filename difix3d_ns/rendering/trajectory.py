"""Renders the frames of a camera path into a video or a folder of images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mediapy
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.scripts.render import CropData
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import IMAGES, VIDEO_OUTPUTS, VIDEOS, telling_errors, write_whole
from difix3d_ns.printing import say
from difix3d_ns.progress import progress_bars
from difix3d_ns.rendering.geometry import frame_geometry
from difix3d_ns.rendering.nearest_photo import nearest_photo, photo_beside
from difix3d_ns.rendering.output_pictures import PictureOptions, picture, require_names, require_used_colormap
from difix3d_ns.rendering.runs import ENHANCED, Outputs, Run
from difix3d_ns.videos.spherical import mark_as_spherical
from difix3d_ns.videos.steady import SteadyFrames

ImageFormat = Literal["jpeg", "png"]
Picture = Float[Tensor, "height width channels"]
SUFFIXES: dict[ImageFormat, str] = {"jpeg": ".jpg", "png": ".png"}
STEADINESS = 0.5
"""Share of the previous enhanced frame in each enhanced frame, where references are aligned."""
SLOWEST, FASTEST = 0.001, 1000
"""Range of the frames per second of a video."""
EYES = {
    CameraType.OMNIDIRECTIONALSTEREO_L.value: (CameraType.OMNIDIRECTIONALSTEREO_R.value, 0),
    CameraType.VR180_L.value: (CameraType.VR180_R.value, 1),
}
"""For a left-eye stereo camera type: the type of the right eye, and the axis along which its image is appended."""


@dataclass(frozen=True)
class TrajectoryOptions:
    """Which outputs of every frame are rendered, and where they are written."""

    output_path: Path
    """The video, or, without the extension of a video or an image, the folder of the images."""
    output_names: list[str]
    """Outputs that each frame shows side by side."""
    output_format: Literal["images", "video"] = "video"
    """Whether a video or a folder of images is written."""
    image_format: ImageFormat = "jpeg"
    """Format of the images."""
    jpeg_quality: int = 100
    """JPEG quality, at most 100."""
    pictures: PictureOptions = field(default_factory=PictureOptions)
    """How outputs that are not colours, such as depth, are coloured."""
    render_nearest_camera: bool = False
    """Whether the nearest training photo is shown beside each frame."""
    check_occlusions: bool = False
    """Whether this photo is chosen only among those whose camera is visible from the frame's, if any is."""
    overwrite: bool = False
    """Whether an existing output may be replaced, images also by those of another format."""
    steadiness: float | None = None
    """Share of the previous enhanced frame in each enhanced frame, from 0 to below 1; see `SteadyFrames`. None for what
    suits the references; see `steadiness_for`."""
    previous_frame_as_reference: bool = False
    """Whether the network's reference is the previous enhanced frame; the first frame gets a photo."""

    @property
    def destination(self) -> Path:
        """The video, or the folder of the images."""
        if self.output_format == "images":
            named_as_file = self.output_path.suffix.lower() in (*VIDEOS, *IMAGES)
            return self.output_path.with_suffix("") if named_as_file else self.output_path
        return self.output_path if self.output_path.suffix else self.output_path.with_suffix(".mp4")


def require_free_destination(options: TrajectoryOptions) -> None:
    """Makes sure that the format fits the outputs and that no existing file is replaced without permission.

    Raises:
        Difix3DError: the destination exists or has an unknown extension, or the outputs do not fit the format.
    """
    require_outputs(options.output_names)
    if options.output_format == "video" and options.output_path.name in ("", ".."):
        raise Difix3DError(
            f"--output-path {options.output_path} is a folder: give the file of the video, such as "
            f"{options.output_path / 'output.mp4'}, or add --output-format images."
        )
    if options.output_format == "video" and options.destination.suffix.lower() not in VIDEO_OUTPUTS:
        raise Difix3DError(
            f"{options.destination} cannot be written as a video: give an --output-path that ends in "
            f"{', '.join(VIDEO_OUTPUTS)}, or add --output-format images."
        )
    if "rgba" in options.output_names:
        if options.output_format == "video" or options.image_format == "jpeg":
            raise Difix3DError(
                "rgba has transparent pixels, which only PNG can hold: add --output-format images --image-format png."
            )
        if len(options.output_names) > 1 or options.render_nearest_camera:
            raise Difix3DError("rgba cannot be shown beside other outputs in one image: render it alone.")
    require_free(options.destination, options.overwrite)


def require_frame_rate(fps: float, origin: str) -> None:
    """Raises Difix3DError if a number of frames per second cannot be that of a video; `origin` is where it is from."""
    if not SLOWEST <= fps <= FASTEST:
        raise Difix3DError(f"{origin} gives {fps:g} frames per second: it must be from {SLOWEST} to {FASTEST}.")


def require_outputs(names: Sequence[str]) -> None:
    """Raises Difix3DError if no outputs are requested."""
    if not names:
        raise Difix3DError("--rendered-output-names is empty: name at least one output, such as rgb_enhanced.")


def require_free(destination: Path, overwrite: bool) -> None:
    """Raises Difix3DError if a file, or a folder with contents, exists at `destination` and must not be overwritten."""
    taken = any(destination.iterdir()) if destination.is_dir() else destination.exists()
    if taken and not overwrite:
        raise Difix3DError(f"{destination} already exists: give another --output-path, or add --overwrite True.")


def render_trajectory(
    run: Run, cameras: Cameras, seconds: float, options: TrajectoryOptions, crop: CropData | None = None
) -> None:
    """Renders every camera of a path; enhances as many frames together as fit into one batch of the network.

    Args:
        run: the run to render.
        cameras: the path, shape (num_frames,).
        seconds: length of the video.
        options: which outputs are rendered, and where they are written.
        crop: part of the scene to render; None for all of it.

    Raises:
        Difix3DError: an output is unknown, or a file cannot be written.
        DifixError: there is no usable network, or it returns no usable image.
    """
    started = time.perf_counter()
    cameras = cameras.to(run.pipeline.device)
    stereo = EYES.get(int(cameras.camera_type.flatten()[0]))
    eyes = [cameras]
    if stereo is not None:
        eyes.append(deepcopy(cameras))
        eyes[1].camera_type = torch.full_like(cameras.camera_type, stereo[0])
    enhanced = ENHANCED in options.output_names
    size = run.num_frames_at_once(cameras[:1]) if enhanced and not options.previous_frame_as_reference else 1
    steadiness = steadiness_for(run, options) if enhanced else 0.0
    if options.steadiness is None and steadiness > 0:
        say(f"Enhanced frames are steadied with --steadiness {steadiness}; 0 leaves each as the network makes it.")
    sequences = [EnhancedFrames(run, options, crop, steadiness) for _ in eyes]
    with _writer(options, len(cameras) / seconds) as write, progress_bars() as progress:
        task = progress.add_task("[green]Rendering frames", total=len(cameras))
        for start in range(0, len(cameras), size):
            indices = range(start, min(start + size, len(cameras)))
            frames: list[list[Picture]] = [[] for _ in indices]
            for eye, sequence in zip(eyes, sequences, strict=True):
                batch = [eye[i : i + 1] for i in indices]
                for parts, camera, outputs in zip(frames, batch, sequence.render(batch, enhanced), strict=True):
                    parts.append(_side_by_side(run, camera, outputs, options))
            for parts in frames:
                write(torch.cat(parts, dim=stereo[1]) if stereo else parts[0])
                progress.advance(task)
    if options.output_format == "video" and int(cameras.camera_type[0]) == CameraType.EQUIRECTANGULAR.value:
        mark_as_spherical(options.destination)
    say(
        f"Rendered {len(cameras)} frames of {int(cameras.width[0])} x {int(cameras.height[0])} in "
        f"{time.perf_counter() - started:.1f} s: {options.destination}"
    )


def steadiness_for(run: Run, options: TrajectoryOptions) -> float:
    """The steadiness that is given; otherwise `STEADINESS` if references are aligned, and 0 if not.

    Aligned references are made anew for each frame, and what they show changes a little from frame to frame.
    """
    if options.steadiness is not None:
        return options.steadiness
    changes = run.enhancer.fixer.config.strength > 0 and not options.previous_frame_as_reference
    return STEADINESS if changes and run.enhancer.aligns_references() else 0.0


class EnhancedFrames:
    """Renders and enhances the frames of one path in order; keeps only the last frame in memory.

    Args:
        run: the run to render.
        options: how the previous frame influences the next.
        crop: part of the scene to render; None for all of it.
        steadiness: share of the previous enhanced frame in each enhanced frame, from 0 to below 1.
    """

    def __init__(self, run: Run, options: TrajectoryOptions, crop: CropData | None, steadiness: float) -> None:
        self._run = run
        self._options = options
        self._crop = crop
        self._steadiness = steadiness
        self._steady = SteadyFrames(steadiness)
        self._last: Tensor | None = None

    def render(self, cameras: Sequence[Cameras], enhanced: bool) -> list[Outputs]:
        """Renders the next frames; see `Run.render`.

        Raises:
            Difix3DError: an error of `Run.render`, or the frames are to be steadied and their geometry is unknown.
        """
        reference = self._last if self._options.previous_frame_as_reference else None
        frames = self._run.render(cameras, enhanced, self._crop, reference)
        if enhanced and self._steadiness > 0:
            for camera, outputs in zip(cameras, frames, strict=True):
                geometry = frame_geometry(self._run.model, camera, outputs)
                outputs[ENHANCED] = self._steady.next(outputs[ENHANCED], geometry)
        if enhanced and self._options.previous_frame_as_reference:
            self._last = frames[-1][ENHANCED]
        return frames


def _side_by_side(run: Run, camera: Cameras, outputs: Outputs, options: TrajectoryOptions) -> Picture:
    if "rgba" in options.output_names:
        outputs["rgba"] = run.rgba(outputs)
    require_names(options.output_names, [*outputs, *({"rgba", ENHANCED} - {*outputs})])
    require_used_colormap(options.pictures, outputs, options.output_names)
    parts = [picture(outputs, name, options.pictures).cpu() for name in options.output_names]
    if options.render_nearest_camera:
        parts.append(photo_beside(run, nearest_photo(run, camera, options.check_occlusions), parts[0].shape[0]))
    return torch.cat(parts, dim=1)


@contextmanager
def _writer(options: TrajectoryOptions, fps: float) -> Iterator[Callable[[Picture], None]]:
    """Yields a function that writes the next frame."""
    if options.output_format == "video":
        # Imported here because it loads the video libraries.
        from difix3d_ns.videos.writer import VideoWriter

        with VideoWriter(options.destination, fps, overwrite=options.overwrite) as video:
            yield video.append
        return
    count = 0

    def write(frame: Picture) -> None:
        nonlocal count
        file = options.destination / f"{count:05d}"
        write_picture(file, frame, options.image_format, options.jpeg_quality, options.overwrite)
        count += 1

    yield write
    names = [file.stem for file in options.destination.iterdir() if file.suffix in SUFFIXES.values()]
    if older := [name for name in names if name.isdecimal() and int(name) >= count]:
        say(f"{options.destination} also holds images of an earlier, longer path, from {min(older)} on: {len(older)}.")


def write_picture(
    path: Path, image: Picture, image_format: ImageFormat, jpeg_quality: int, overwrite: bool = False
) -> None:
    """Writes an image that appears under its name only once it is complete.

    Args:
        path: the file, without its extension.
        image: values in [0, 1].
        image_format: `jpeg` or `png`.
        jpeg_quality: at most 100.
        overwrite: whether the image replaces an existing one, also of the other format.

    Raises:
        Difix3DError: the file cannot be written, or exists and must not be overwritten.
    """
    file = path.with_name(path.name + SUFFIXES[image_format])
    require_free(file, overwrite)
    quality = {"quality": jpeg_quality} if image_format == "jpeg" else {}
    values = mediapy.to_uint8(image.detach().cpu().clamp(0, 1).numpy())
    with telling_errors(file):
        content = mediapy.compress_image(values, fmt=image_format, **quality)
    write_whole(file, content)
    if overwrite:
        for suffix in {*SUFFIXES.values()} - {file.suffix}:
            older = path.with_name(path.name + suffix)
            if older.is_file():
                with telling_errors(older):
                    older.unlink()
