"""Flicker and PSNR of several ways to enhance a video of a trained run. Run by hand:

python tests/benchmarks/flicker.py --load-config RUN/config.yml

The video passes through the cameras of held-out photos, with which PSNR and SSIM are computed. `Detail` is the mean
difference from a blurred copy: a method that only softens the image lowers both flicker and detail, as the blurred rows
show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from nerfstudio.cameras.camera_utils import get_interpolated_poses
from nerfstudio.cameras.cameras import Cameras
from pytorch_msssim import ssim
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from difix3d_ns.cameras.path_through_photos import visiting_order
from difix3d_ns.evaluation.run import load_difix3d_run
from difix3d_ns.pipeline import Difix3DPipeline
from difix3d_ns.vetting.color_matching import match_colors
from difix3d_ns.videos.flicker import FrameGeometry, flicker
from difix3d_ns.videos.steady import SteadyFrames

Images = list[Tensor]


@dataclass
class BenchmarkConfig:
    """The run, and the length of the video."""

    load_config: Path
    """A difix3d run's `config.yml`."""
    frames_between: int = 8
    """Number of frames from one held-out photo's camera to the next."""
    max_photos: int = 6
    """Most held-out photos that the video passes through."""


class Video:
    """A run's renders along a path through held-out photos."""

    def __init__(self, run: Difix3DPipeline, frames_between: int, max_photos: int) -> None:
        model, held_out = run.difix3d_model, run.datamanager.fixed_indices_eval_dataloader
        poses = torch.cat([camera.camera_to_worlds for camera, _ in held_out]).cpu()
        order = visiting_order(poses)[:max_photos]
        self.cameras: list[Cameras] = []
        photo_of_frame: dict[int, int] = {}
        for first, second in zip(order, [*order[1:], order[-1]], strict=True):
            photo_of_frame[len(self.cameras)] = first
            between = get_interpolated_poses(poses[first].numpy(), poses[second].numpy(), frames_between + 1)
            stops = [poses[first], *(torch.as_tensor(pose, dtype=torch.float32)[:3] for pose in between[1:-1])]
            self.cameras += [_moved(held_out[first][0], pose) for pose in stops[: 1 if first == second else None]]
        outputs = [model.get_outputs_for_camera(camera) for camera in self.cameras]
        self.renders = [output["rgb"].cpu() for output in outputs]
        self.frames = [
            FrameGeometry(
                camera.camera_to_worlds[0].cpu(),
                camera.get_intrinsics_matrices()[0].cpu(),
                output["depth"].cpu(),
                output["accumulation"].cpu(),
            )
            for camera, output in zip(self.cameras, outputs, strict=True)
        ]
        self.photos = {
            frame: model.composite_with_background(
                model.get_gt_img(held_out[photo][1]["image"]), outputs[frame]["background"]
            ).cpu()
            for frame, photo in photo_of_frame.items()
        }

    def describe(self, name: str, images: Sequence[Tensor]) -> str:
        """A row of the table: flicker in percent, PSNR and SSIM against the photos, detail in percent."""
        measured = flicker(images, self.frames)
        assert measured is not None
        errors = [float(((images[i] - photo) ** 2).mean()) for i, photo in self.photos.items()]
        psnr = sum(-10 * torch.tensor(error).log10().item() for error in errors) / len(errors)
        alike = [ssim(_batch(images[i]), _batch(photo), data_range=1.0) for i, photo in self.photos.items()]
        detail = sum(float((image - blurred(image, 2.0)).abs().mean()) for image in images) / len(images)
        return (
            f"| {name} | {100 * measured.mean:.3f} | {psnr:.2f} | {float(sum(alike)) / len(alike):.4f} "
            f"| {100 * detail:.2f} |"
        )


def blurred(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of an image (height, width, 3)."""
    size = 2 * round(3 * sigma) + 1
    return gaussian_blur(image.permute(2, 0, 1), [size, size], [sigma, sigma]).permute(1, 2, 0)


def steadied(images: Images, frames: Sequence[FrameGeometry], share: float) -> Images:
    """The images steadied by `SteadyFrames`."""
    steadier = SteadyFrames(share)
    return [steadier.next(image, frame) for image, frame in zip(images, frames, strict=True)]


def from_frame_before(run: Difix3DPipeline, video: Video, first: Tensor | None) -> Images:
    """Enhances each frame with the previous enhanced frame as reference."""
    made: Images = []
    for render in video.renders:
        made += run.fixer.clean([render], [made[-1] if made else first])
    return made


def _moved(camera: Cameras, pose: Tensor) -> Cameras:
    lens = {name: getattr(camera, name) for name in ("fx", "fy", "cx", "cy", "width", "height")}
    return Cameras(camera_to_worlds=pose[None].to(camera.camera_to_worlds), metadata={}, **lens)


def _batch(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None]


@torch.no_grad()
def main(config: BenchmarkConfig) -> None:
    """Measures all methods and prints the table."""
    run = load_difix3d_run(config.load_config, lambda trainer: trainer)
    video = Video(run, config.frames_between, config.max_photos)
    renders, frames = video.renders, video.frames
    print(f"{len(frames)} frames of {renders[0].shape[1]} x {renders[0].shape[0]}, {len(video.photos)} photos")
    print("| way | flicker (%) | PSNR | SSIM | detail (%) |\n|---|---|---|---|---|")
    print(video.describe("render", renders), flush=True)

    enhanced = run.enhancer.enhance_all(renders, video.cameras)
    print(video.describe("enhanced", enhanced), flush=True)
    without_reference = run.fixer.clean(renders)
    print(video.describe("enhanced, no reference", without_reference), flush=True)
    if not run.fixer.takes_aligned_references():
        photo = run.datamanager.training_photos(run.enhancer.choose_references(video.cameras[:1]))[0]
        print(video.describe("enhanced, previous frame as reference", from_frame_before(run, video, photo)), flush=True)
    largest = max(float((a - b).abs().max()) for a, b in zip(enhanced, without_reference, strict=True))
    matched = [match_colors(e, r, f.accumulation) for e, r, f in zip(enhanced, renders, frames, strict=True)]
    ways: dict[str, Callable[[], Images]] = {
        "strength 0.7": lambda: [torch.lerp(r, e, 0.7) for r, e in zip(renders, enhanced, strict=True)],
        "colours matched": lambda: matched,
        "colours matched, blurred by 0.4 pixels": lambda: [blurred(image, 0.4) for image in matched],
        "colours matched, blurred by 0.6 pixels": lambda: [blurred(image, 0.6) for image in matched],
        "steady 0.3": lambda: steadied(enhanced, frames, 0.3),
        "steady 0.5": lambda: steadied(enhanced, frames, 0.5),
        "colours matched, steady 0.3": lambda: steadied(matched, frames, 0.3),
        "colours matched, steady 0.5": lambda: steadied(matched, frames, 0.5),
        "colours matched, steady 0.7": lambda: steadied(matched, frames, 0.7),
        "render, steady 0.5": lambda: steadied(renders, frames, 0.5),
    }
    for name, make in ways.items():
        print(video.describe(name, make()), flush=True)
    print(f"Largest difference between enhanced frames with and without reference: {largest:.5f}")


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
