"""The subcommands of `ns-difix render`: those of `ns-render` with all their options, and Difix's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from nerfstudio.cameras.camera_paths import get_interpolated_camera_path
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.scripts.render import (
    CropData,
    DatasetRender,
    RenderCameraPath,
    RenderInterpolated,
    SpiralRender,
    get_crop_from_json,
)
from nerfstudio.utils.rich_utils import CONSOLE

from difix3d_ns.cameras.path_files import read_camera_path, require_perspective, spiral_around
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.difix_fixer import DifixConfig
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.rendering.dataset import DatasetOptions, render_dataset, require_free_folders
from difix3d_ns.rendering.loading import RunOptions, load_run
from difix3d_ns.rendering.output_pictures import PictureOptions
from difix3d_ns.rendering.runs import ENHANCED, Run
from difix3d_ns.rendering.trajectory import TrajectoryOptions, render_trajectory, require_free_destination


@dataclass
class DifixOptions:
    """Options that all subcommands add to nerfstudio's."""

    rendered_output_names: list[str] = field(default_factory=lambda: [ENHANCED])
    """Outputs to render: rgb_enhanced, rgb, depth and so on; along a path they stand side by side."""
    data: Path | None = None
    """The scene, where it is no longer where it was when the run was trained."""
    overwrite: bool = False
    """Whether what exists at the output path may be replaced."""
    difix: DifixConfig = field(default_factory=DifixConfig)
    """The network. Of a difix3d run its own settings hold, where these are left at their defaults."""
    references: ReferenceConfig = field(default_factory=ReferenceConfig)
    """Which photo the network is given as reference; of a difix3d run as it was set, in the same way."""
    match_colors: bool = False
    """Whether large-scale colours of enhanced frames become those of their renders, which undoes the network's shifts.
    It gained 0.1 and 0.8 dB where the splat's colours were right, and cost 0.2 and 0.7 dB where they were wrong."""


@dataclass
class VideoOptions(DifixOptions):
    """Options of the subcommands whose frames follow each other."""

    steadiness: float = 0.0
    """Share of each enhanced frame that is the one before it, carried along by the render's depth; to below 1.
    0.5 took 17 to 33 % of the flicker away at the same PSNR, and up to 0.006 of the SSIM, as it softens.
    Off by default, as no frame then depends on another, and enhanced frames flickered less than their renders anyway.
    It needs perspective cameras, and Gaussians or a ray-based method. Memory does not grow with the video."""
    previous_frame_as_reference: bool = False
    """Gives the network the enhanced frame before as reference, in place of a photo; the first one gets a photo.
    Frames then go one by one. To the small embedded network references make no difference, so there it changes nothing.
    """


@dataclass
class CameraPath(VideoOptions, RenderCameraPath):
    """Renders a camera path of the viewer's render panel."""

    def main(self) -> None:
        """Renders it; raises Difix3DError or DifixError."""
        path = read_camera_path(self.camera_path_filename)
        try:
            crop = get_crop_from_json(path.content)
        except (AssertionError, LookupError, TypeError, RuntimeError) as error:
            raise Difix3DError(f"the crop in {self.camera_path_filename} cannot be read: {error!r}.") from error
        options = _trajectory_options(self)
        run = _load(self)
        if isinstance(run.model, SplatfactoModel):
            require_perspective(path.cameras, self.camera_path_filename)
        _render(self, run, path.cameras, path.seconds, options, crop)


@dataclass
class Interpolate(VideoOptions, RenderInterpolated):
    """Renders a path through the cameras of the evaluation or the training photos."""

    def main(self) -> None:
        """Renders it; raises Difix3DError or DifixError."""
        if self.interpolation_steps < 1 or self.frame_rate <= 0:
            raise Difix3DError("--interpolation-steps and --frame-rate need 1 or more.")
        options = _trajectory_options(self)
        run = _load(self)
        photos = run.cameras("test" if self.pose_source == "eval" else "train")
        if len(photos) < 2:
            raise Difix3DError(f"one {self.pose_source} photo makes no path: choose another --pose-source.")
        path = get_interpolated_camera_path(photos, steps=self.interpolation_steps, order_poses=self.order_poses)
        # As nerfstudio counts: every photo, the last one too, begins a stretch of so many steps.
        _render(self, run, path, self.interpolation_steps * len(photos) / self.frame_rate, options)


@dataclass
class Spiral(VideoOptions, SpiralRender):
    """Renders a spiral around the first evaluation photo's camera, of Gaussians too."""

    def main(self) -> None:
        """Renders it; raises Difix3DError or DifixError."""
        num_frames = int(self.frame_rate * self.seconds)
        if num_frames < 1:
            raise Difix3DError(f"{self.seconds} seconds of {self.frame_rate} frames are none: raise --seconds.")
        options = _trajectory_options(self)
        run = _load(self)
        path = spiral_around(run.cameras("test")[:1], num_frames, self.radius)
        _render(self, run, path, self.seconds, options)


@dataclass
class Dataset(DifixOptions, DatasetRender):
    """Renders the views of the photos of a split."""

    data: Path | None = None
    """The scene, where it is no longer where it was when the run was trained."""
    rendered_output_names: list[str] = field(default_factory=lambda: [ENHANCED])
    """Outputs to render, each into a folder of its own: rgb_enhanced, rgb, depth and so on.
    With gt- what the dataset has, as gt-rgb the photo; with raw- the values as .npy.gz, as raw-depth."""

    def main(self) -> None:
        """Renders them; raises Difix3DError or DifixError."""
        if self.downscale_factor is not None and self.downscale_factor <= 0:
            raise Difix3DError(f"--downscale-factor is {self.downscale_factor}: give a number above 0.")
        options = DatasetOptions(
            self.output_path,
            list(self.rendered_output_names),
            self.split.split("+"),
            self.image_format,
            self.jpeg_quality,
            _picture_options(self),
            self.overwrite,
        )
        require_free_folders(options)
        run = load_run(
            self.load_config,
            RunOptions(
                self.difix,
                self.references,
                self.data,
                self.downscale_factor,
                self.eval_num_rays_per_chunk,
                self.match_colors,
            ),
        )
        _load_network(run, self)
        render_dataset(run, options)


Commands = tyro.conf.FlagConversionOff[
    Annotated[CameraPath, tyro.conf.subcommand(name="camera-path")]
    | Annotated[Interpolate, tyro.conf.subcommand(name="interpolate")]
    | Annotated[Spiral, tyro.conf.subcommand(name="spiral")]
    | Annotated[Dataset, tyro.conf.subcommand(name="dataset")]
]
"""The subcommands; options that are true or false take a value, as in `ns-render`."""


def _load(command: Any) -> Run:
    run = load_run(
        command.load_config,
        RunOptions(
            command.difix,
            command.references,
            command.data,
            eval_num_rays_per_chunk=command.eval_num_rays_per_chunk,
            match_colors=command.match_colors,
        ),
    )
    _load_network(run, command)
    return run


def _load_network(run: Run, command: Any) -> None:
    """Loads the network before the first frame, so that a wrong one is told at once."""
    if any(name.removeprefix("raw-") == ENHANCED for name in command.rendered_output_names):
        fixer = run.enhancer.fixer
        CONSOLE.print(f"Difix: {fixer.resolve().reason}", markup=False)
        _ = fixer.network


def _trajectory_options(command: Any) -> TrajectoryOptions:
    options = TrajectoryOptions(
        command.output_path,
        list(command.rendered_output_names),
        command.output_format,
        command.image_format,
        command.jpeg_quality,
        _picture_options(command),
        command.render_nearest_camera,
        command.check_occlusions,
        command.overwrite,
        command.steadiness,
        command.previous_frame_as_reference,
    )
    if command.downscale_factor <= 0:
        raise Difix3DError(f"--downscale-factor is {command.downscale_factor}: give a number above 0.")
    if not 0 <= command.steadiness < 1:
        raise Difix3DError(f"--steadiness is {command.steadiness}: give a number from 0 to below 1.")
    if command.previous_frame_as_reference and not command.difix.use_reference:
        raise Difix3DError("--previous-frame-as-reference and --difix.use-reference False exclude each other.")
    require_free_destination(options)
    return options


def _picture_options(command: Any) -> PictureOptions:
    return PictureOptions(command.depth_near_plane, command.depth_far_plane, command.colormap_options)


def _render(
    command: Any,
    run: Run,
    cameras: Cameras,
    seconds: float,
    options: TrajectoryOptions,
    crop: CropData | None = None,
) -> None:
    cameras.rescale_output_resolution(1.0 / command.downscale_factor)
    if command.camera_idx is not None:
        cameras.metadata = {"cam_idx": command.camera_idx}
    render_trajectory(run, cameras, seconds, options, crop)
