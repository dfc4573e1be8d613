"""The subcommands of `ns-difix render`: those of `ns-render` with all their options, and the options of Difix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.scripts.render import (
    CropData,
    DatasetRender,
    RenderCameraPath,
    RenderInterpolated,
    SpiralRender,
)
from nerfstudio.utils.colormaps import ColormapOptions

from difix3d_ns.cameras.generated_paths import path_between, spiral_around
from difix3d_ns.cameras.path_files import read_camera_path, require_perspective
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.options import optional_settings, shown_default
from difix3d_ns.rendering.command_options import (
    jpeg_quality,
    load_for,
    picture_options,
    refuse_image_options,
    require_used_enhancement,
    trajectory_options,
)
from difix3d_ns.rendering.crop import read_crop
from difix3d_ns.rendering.dataset import DatasetOptions, render_dataset, require_free_folders
from difix3d_ns.rendering.runs import ENHANCED, Run
from difix3d_ns.rendering.trajectory import (
    TrajectoryOptions,
    render_trajectory,
    require_frame_rate,
    require_outputs,
)

AS_TRAINED = "as the run was trained"
OptionalDifix = optional_settings(DifixConfig, AS_TRAINED, without_origin=("offload",))
OptionalReferences = optional_settings(ReferenceConfig, AS_TRAINED)
OptionalColormap = optional_settings(ColormapOptions)


@dataclass
class DifixOptions:
    """Options of all subcommands, added to nerfstudio's or explained better."""

    rendered_output_names: list[str] = field(default_factory=lambda: [ENHANCED])
    """Outputs to render, such as rgb_enhanced, rgb or depth. Each frame shows them side by side."""
    data: Annotated[Path | None, shown_default(AS_TRAINED)] = None
    """The scene, if it was moved since the training."""
    eval_num_rays_per_chunk: Annotated[int | None, shown_default(AS_TRAINED)] = None
    """Number of rays that a ray-based method renders at once."""
    depth_near_plane: Annotated[float | None, shown_default("the smallest depth of each frame")] = None
    """Depth in scene units at the near end of the colour map."""
    depth_far_plane: Annotated[float | None, shown_default("the largest depth of each frame")] = None
    """Depth in scene units at the far end of the colour map."""
    overwrite: bool = False
    """Whether existing files at the output path may be replaced.
    An image then also replaces the one of the same name in another --image-format."""
    image_format: Annotated[Literal["jpeg", "png"] | None, shown_default("jpeg")] = None
    """Format of the images."""
    jpeg_quality: Annotated[int | None, shown_default(100)] = None
    """Quality of JPEG images, from 1 to 100."""
    colormap_options: Annotated[Any, tyro.conf.arg(constructor=OptionalColormap)] = field(
        default_factory=OptionalColormap
    )
    """How outputs of one channel, such as depth and accumulation, become images."""
    difix: Annotated[Any, tyro.conf.arg(constructor=OptionalDifix)] = field(default_factory=OptionalDifix)
    """The network that enhances frames."""
    references: Annotated[Any, tyro.conf.arg(constructor=OptionalReferences)] = field(
        default_factory=OptionalReferences
    )
    """The reference photo of a frame."""
    match_colors: bool = False
    """Whether an enhanced frame gets the large-scale colours of its render, which undoes colour shifts of the network.
    In tests it gained 0.1 and 0.8 dB where the colours of the splat were right.
    It lost 0.2 and 0.7 dB where they were wrong."""
    clear_unseen: Annotated[bool | None, shown_default("True for up to 50 photos and runs without fixes")] = None
    """Whether an enhanced frame of a splat is cleared of what no training photo shows.
    Gaussians that lie over it like fog although hardly any photo shows them are hidden, and wide areas whose surface no
    photo shows are blurred, because the splat can only guess there. Only with aligned references, as the embedded
    network takes them: others make up what is missing. Runs with fixes are trained without fog and guesses."""


@dataclass
class VideoOptions(DifixOptions):
    """Options of the subcommands that render the frames of a path."""

    output_path: Path = Path("renders/output.mp4")
    """The video file. With --output-format images, the folder of the images, without a .mp4 or the like at its end."""
    output_format: Literal["images", "video"] = "video"
    """Whether to write a video or a folder of images."""
    downscale_factor: float = 1.0
    """Number by which the width and height of the frames are divided; fractions of pixels are dropped."""
    render_nearest_camera: bool = False
    """Whether to show the training photo with the nearest pose beside each frame."""
    check_occlusions: bool = False
    """With --render-nearest-camera: whether to choose only among photos whose camera is visible from the frame's."""
    camera_idx: int | None = None
    """Index of a training photo that is passed to the model with every camera.
    difix3d-nerfacto then renders the appearance of this photo. Of other models, only those of other packages that
    learn a correction for each photo use it."""
    steadiness: Annotated[float | None, shown_default("0.5 with aligned references, else 0")] = None
    """Share of the previous enhanced frame, warped by the render's depth, in each enhanced frame; from 0 to below 1.
    With the embedded network, which takes aligned references, frames flicker more than renders; 0.5 removes 20 to 32 %
    of the flicker at the same PSNR. SSIM changed by -0.009 to +0.005. With 0, no frame depends on another.
    It needs perspective cameras and a splat or a ray-based method. Memory does not grow with the video's length."""
    previous_frame_as_reference: bool = False
    """Whether the network's reference is the previous enhanced frame; the first frame still gets a photo.
    Frames are then enhanced one by one. The embedded network, which takes aligned references, makes no use of it."""


@dataclass
class CameraPath(VideoOptions, RenderCameraPath):
    """Renders a camera path saved in the viewer's render panel."""

    camera_path_filename: Path = Path("camera_path.json")
    """The file that the viewer's render panel saved."""

    def main(self) -> None:
        """Renders the path; raises Difix3DError or DifixError."""
        options = trajectory_options(self)
        path = read_camera_path(self.camera_path_filename)
        crop = read_crop(path, self.camera_path_filename)
        require_frame_rate(len(path.cameras) / path.seconds, f"the camera path {self.camera_path_filename}")

        def check(config: TrainerConfig) -> None:
            if isinstance(config.pipeline.model, SplatfactoModelConfig):
                require_perspective(path.cameras, self.camera_path_filename)

        run = load_for(self, check)
        _render(self, run, path.cameras, path.seconds, options, crop)


@dataclass
class Interpolate(VideoOptions, RenderInterpolated):
    """Renders a path through the cameras of the evaluation photos or of the training photos.

    Frames have the size of the photos, or the most frequent size if they have several.
    """

    pose_source: Literal["eval", "train"] = "eval"
    """Which photos' cameras the path goes through."""
    interpolation_steps: int = 10
    """Number of frames from one camera to the next."""
    order_poses: bool = False
    """Whether the path always goes on to the nearest camera that is left, instead of following the photos' order."""
    frame_rate: Annotated[int | None, shown_default(24)] = None
    """Frames per second of the video."""

    def main(self) -> None:
        """Renders the path; raises Difix3DError or DifixError."""
        if self.interpolation_steps < 1:
            raise Difix3DError(f"--interpolation-steps must be 1 or more, not {self.interpolation_steps}.")
        if self.frame_rate is not None:
            require_frame_rate(self.frame_rate, "--frame-rate")
            if self.output_format == "images":
                raise Difix3DError("--frame-rate is for videos: leave it out, or leave out --output-format images.")
        options = trajectory_options(self)
        run = load_for(self)
        photos = run.cameras("test" if self.pose_source == "eval" else "train")
        if len(photos) < 2:
            raise Difix3DError(f"a path needs at least two {self.pose_source} photos: choose another --pose-source.")
        path = path_between(photos, self.interpolation_steps, self.order_poses)
        _render(self, run, path, len(path) / (self.frame_rate or 24), options)


@dataclass
class Spiral(VideoOptions, SpiralRender):
    """Renders a spiral around the camera of the first evaluation photo, also for splats, which ns-render cannot."""

    seconds: float = 3.0
    """Length of the video in seconds, to the nearest whole frame."""
    frame_rate: int = 24
    """Frames per second."""
    radius: float = 0.1
    """Radius of the spiral in scene units."""

    def main(self) -> None:
        """Renders the spiral; raises Difix3DError or DifixError."""
        require_frame_rate(self.frame_rate, "--frame-rate")
        if not 0 <= self.seconds < math.inf:
            raise Difix3DError(f"--seconds is {self.seconds}: give a number above 0.")
        if not math.isfinite(self.radius):
            raise Difix3DError(f"--radius is {self.radius}: give a number.")
        num_frames = round(self.frame_rate * self.seconds)
        if num_frames < 1:
            raise Difix3DError(
                f"{self.seconds} seconds at {self.frame_rate} frames per second are no whole frame: raise --seconds."
            )
        options = trajectory_options(self)
        run = load_for(self)
        path = spiral_around(run.cameras("test")[:1], num_frames, self.radius)
        _render(self, run, path, num_frames / self.frame_rate, options)


@dataclass
class Dataset(DifixOptions, DatasetRender):
    """Renders the views of a split's photos."""

    output_path: Path = Path("renders")
    """Folder for the images. The image of a photo is SPLIT/OUTPUT/PHOTO in it."""
    data: Annotated[Path | None, shown_default(AS_TRAINED)] = None
    """The scene, if it was moved since the training."""
    downscale_factor: Annotated[float | None, shown_default(AS_TRAINED)] = None
    """Number by which the width and height of the views are divided.
    The photos for 2 are those in the folder images_2, and so for other whole numbers. Where there is no such folder,
    photos are scaled when they are read. Below 1, views are larger than photos."""
    split: Literal["train", "val", "test", "train+test"] = "test"
    """The photos whose views are rendered."""
    rendered_output_names: list[str] = field(default_factory=lambda: [ENHANCED])
    """Outputs to render, such as rgb_enhanced, rgb or depth, each into its own folder.
    gt-NAME is what the dataset contains, such as the photo as gt-rgb.
    raw-NAME writes the values as .npy.gz, such as raw-depth."""
    render_nearest_camera: bool = False
    """Only for paths: True is refused here. gt-rgb writes each view's own photo."""
    check_occlusions: bool = False
    """Only for paths: True is refused here."""
    camera_idx: int | None = None
    """Only for paths: a number is refused here."""

    def main(self) -> None:
        """Renders the views; raises Difix3DError or DifixError."""
        for name, is_given in (
            ("--render-nearest-camera", self.render_nearest_camera),
            ("--check-occlusions", self.check_occlusions),
            ("--camera-idx", self.camera_idx is not None),
        ):
            if is_given:
                raise Difix3DError(f"{name} is only for paths, not for the views of a dataset: leave it out.")
        if self.downscale_factor is not None and not 0 < self.downscale_factor < math.inf:
            raise Difix3DError(f"--downscale-factor is {self.downscale_factor}: give a number above 0.")
        require_outputs(self.rendered_output_names)
        images = [name for name in self.rendered_output_names if not name.startswith("raw-")]
        if not images:
            refuse_image_options(self, "raw outputs, which are not written as images")
        require_used_enhancement(self)
        options = DatasetOptions(
            self.output_path,
            list(dict.fromkeys(self.rendered_output_names)),
            self.split.split("+"),
            self.image_format or "jpeg",
            jpeg_quality(self),
            picture_options(self, images),
            self.overwrite,
        )
        require_free_folders(options)
        run = load_for(self, downscale_factor=self.downscale_factor)
        for split in options.splits:
            cameras = run.cameras(split)
            if min(int(cameras.width.min()), int(cameras.height.min())) < 1:
                raise Difix3DError(
                    f"--downscale-factor {self.downscale_factor} leaves nothing of the views: give less."
                )
        render_dataset(run, options)


Commands = tyro.conf.FlagConversionOff[
    Annotated[CameraPath, tyro.conf.subcommand(name="camera-path")]
    | Annotated[Interpolate, tyro.conf.subcommand(name="interpolate")]
    | Annotated[Spiral, tyro.conf.subcommand(name="spiral")]
    | Annotated[Dataset, tyro.conf.subcommand(name="dataset")]
]
"""The subcommands. Boolean options take the value True or False, as in `ns-render`."""


def _render(
    command: Any,
    run: Run,
    cameras: Cameras,
    seconds: float,
    options: TrajectoryOptions,
    crop: CropData | None = None,
) -> None:
    width, height = int(cameras.width[0]), int(cameras.height[0])
    cameras.rescale_output_resolution(1.0 / command.downscale_factor)
    if int(cameras.width[0]) < 1 or int(cameras.height[0]) < 1:
        raise Difix3DError(
            f"--downscale-factor {command.downscale_factor} leaves nothing of {width} x {height} pixels: give less."
        )
    if command.camera_idx is not None:
        cameras.metadata = {"cam_idx": command.camera_idx}
    render_trajectory(run, cameras, seconds, options, crop)
