"""The subcommands of `ns-difix render`: those of `ns-render` with all their options, and the options of Difix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

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

from difix3d_ns.cameras.generated_paths import spiral_around
from difix3d_ns.cameras.path_files import read_camera_path, require_perspective
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.rendering.dataset import DatasetOptions, render_dataset, require_free_folders
from difix3d_ns.rendering.loading import RunOptions, load_run
from difix3d_ns.rendering.output_pictures import PictureOptions
from difix3d_ns.rendering.runs import ENHANCED, Run
from difix3d_ns.rendering.trajectory import TrajectoryOptions, render_trajectory, require_free_destination


@dataclass
class DifixOptions:
    """Options of all subcommands, added to nerfstudio's or explained better."""

    rendered_output_names: list[str] = field(default_factory=lambda: [ENHANCED])
    """Outputs to render, such as rgb_enhanced, rgb or depth. Each frame shows them side by side."""
    data: Path | None = None
    """The scene, if it was moved since the training."""
    overwrite: bool = False
    """Whether existing files at the output path may be replaced."""
    difix: DifixConfig = field(default_factory=DifixConfig)
    """The network. For a difix3d run, options left at their defaults keep the run's own settings."""
    references: ReferenceConfig = field(default_factory=ReferenceConfig)
    """The reference photo of a frame. For a difix3d run, options left at their defaults keep the run's own settings."""
    match_colors: bool = False
    """Whether an enhanced frame gets the large-scale colours of its render, which undoes colour shifts of the network.
    In tests it gained 0.1 and 0.8 dB where the colours of the splat were right.
    It lost 0.2 and 0.7 dB where they were wrong."""


@dataclass
class VideoOptions(DifixOptions):
    """Options of the subcommands that render the frames of a path."""

    output_path: Path = Path("renders/output.mp4")
    """The video file. With --output-format images, the folder of the same name without extension."""
    output_format: Literal["images", "video"] = "video"
    """Whether to write a video or a folder of images."""
    downscale_factor: float = 1.0
    """Number by which the width and height of the frames are divided."""
    render_nearest_camera: bool = False
    """Whether to show the training photo with the nearest pose beside each frame."""
    check_occlusions: bool = False
    """With --render-nearest-camera: whether to choose only among photos whose camera is visible from the frame's."""
    camera_idx: int | None = None
    """Index of a training photo that is passed to the model with every camera.
    Only models that learn a correction for each photo use it."""
    steadiness: float = 0.0
    """Share of the previous enhanced frame, warped by the render's depth, in each enhanced frame; from 0 to below 1.
    0.5 removed 17 to 33 % of the flicker at the same PSNR, but softens: SSIM fell by up to 0.006.
    It is off by default: no frame then depends on another, and enhanced frames flickered less than renders anyway.
    It needs perspective cameras and a splat or a ray-based method. Memory does not grow with the video's length."""
    previous_frame_as_reference: bool = False
    """Whether the network's reference is the previous enhanced frame; the first frame still gets a photo.
    Frames are then enhanced one by one. References matter little to the small embedded network."""


@dataclass
class CameraPath(VideoOptions, RenderCameraPath):
    """Renders a camera path saved in the viewer's render panel."""

    camera_path_filename: Path = Path("camera_path.json")
    """The file that the viewer's render panel saved."""

    def main(self) -> None:
        """Renders the path; raises Difix3DError or DifixError."""
        path = read_camera_path(self.camera_path_filename)
        try:
            crop = get_crop_from_json(path.content)
        except (AssertionError, LookupError, TypeError, RuntimeError) as error:
            raise Difix3DError(
                f"the crop in {self.camera_path_filename} cannot be read ({error!r}): save it in the viewer again."
            ) from error
        options = _trajectory_options(self)
        run = _load(self)
        if isinstance(run.model, SplatfactoModel):
            require_perspective(path.cameras, self.camera_path_filename)
        _render(self, run, path.cameras, path.seconds, options, crop)


@dataclass
class Interpolate(VideoOptions, RenderInterpolated):
    """Renders a path through the cameras of the evaluation photos or of the training photos."""

    pose_source: Literal["eval", "train"] = "eval"
    """Which photos' cameras the path goes through."""
    interpolation_steps: int = 10
    """Number of frames from one camera to the next."""
    order_poses: bool = False
    """Whether the path always goes on to the nearest camera that is left, instead of following the photos' order."""
    frame_rate: int = 24
    """Frames per second of the video."""

    def main(self) -> None:
        """Renders the path; raises Difix3DError or DifixError."""
        if self.interpolation_steps < 1 or self.frame_rate <= 0:
            raise Difix3DError("--interpolation-steps and --frame-rate must be 1 or more.")
        options = _trajectory_options(self)
        run = _load(self)
        photos = run.cameras("test" if self.pose_source == "eval" else "train")
        if len(photos) < 2:
            raise Difix3DError(f"a path needs at least two {self.pose_source} photos: choose another --pose-source.")
        path = get_interpolated_camera_path(photos, steps=self.interpolation_steps, order_poses=self.order_poses)
        # nerfstudio's length of the video, which also counts the steps after the last photo.
        _render(self, run, path, self.interpolation_steps * len(photos) / self.frame_rate, options)


@dataclass
class Spiral(VideoOptions, SpiralRender):
    """Renders a spiral around the camera of the first evaluation photo, also for splats, which ns-render cannot."""

    seconds: float = 3.0
    """Length of the video in seconds."""
    frame_rate: int = 24
    """Frames per second."""
    radius: float = 0.1
    """Radius of the spiral in scene units."""

    def main(self) -> None:
        """Renders the spiral; raises Difix3DError or DifixError."""
        num_frames = int(self.frame_rate * self.seconds)
        if num_frames < 1:
            raise Difix3DError(
                f"{self.seconds} seconds at {self.frame_rate} frames per second are no whole frame: raise --seconds."
            )
        options = _trajectory_options(self)
        run = _load(self)
        path = spiral_around(run.cameras("test")[:1], num_frames, self.radius)
        _render(self, run, path, self.seconds, options)


@dataclass
class Dataset(DifixOptions, DatasetRender):
    """Renders the views of a split's photos."""

    output_path: Path = Path("renders")
    """Folder for the images. The image of a photo is SPLIT/OUTPUT/PHOTO in it."""
    data: Path | None = None
    """The scene, if it was moved since the training."""
    downscale_factor: float | None = None
    """Number by which the dataparser divides the width and height of the photos; by default the run's own."""
    split: Literal["train", "val", "test", "train+test"] = "test"
    """The photos whose views are rendered."""
    rendered_output_names: list[str] = field(default_factory=lambda: [ENHANCED])
    """Outputs to render, such as rgb_enhanced, rgb or depth, each into its own folder.
    gt-NAME is what the dataset contains, such as the photo as gt-rgb.
    raw-NAME writes the values as .npy.gz, such as raw-depth."""
    render_nearest_camera: bool = False
    """Has no effect here; ns-render has this option for paths."""
    check_occlusions: bool = False
    """Has no effect here; ns-render has this option for paths."""
    camera_idx: int | None = None
    """Has no effect here; ns-render has this option for paths."""

    def main(self) -> None:
        """Renders the views; raises Difix3DError or DifixError."""
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
"""The subcommands. Boolean options take the value True or False, as in `ns-render`."""


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
    """Loads the network before the first frame, so that a wrong one is reported at once."""
    if any(name.removeprefix("raw-") == ENHANCED for name in command.rendered_output_names):
        fixer = run.enhancer.fixer
        CONSOLE.print(f"Difix: {fixer.resolve().reason}", markup=False)
        fixer.load()


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
        raise Difix3DError(
            "--previous-frame-as-reference and --difix.use-reference False exclude each other: leave out one of them."
        )
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
