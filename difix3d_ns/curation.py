"""Pairs for training Difix: renders of splats trained on few photos, against the photos they never saw.

The published strategies "sparse reconstruction" and "model underfitting" (arXiv 2503.01774, section 4.1): a scene is
trained on some of its photos, and at several steps of that training all its other photos' cameras are rendered.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils.rich_utils import CONSOLE
from torchvision.utils import save_image

from difix3d_ns.errors import Difix3DError
from difix3d_ns.trajectories import nearest_poses

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import Trainer

PROMPT = "remove degradation"


@dataclass(frozen=True)
class SceneToCurate:
    """One training of one scene."""

    name: str
    """Unique name, part of the pairs' ids."""
    transforms: dict[str, Any]
    """The scene's transforms with absolute paths; everything that is not trained on is held out."""


def scene_to_curate(path: Path, every: int) -> SceneToCurate:
    """Reads a scene and decides what it is trained on.

    Args:
        path: a transforms JSON, or a folder with a `transforms.json`.
        every: a scene without `train_filenames` is trained on every so many-th photo.

    Raises:
        Difix3DError: there is no such scene, it has no photos, or none is left to hold out.
    """
    file = path / "transforms.json" if path.is_dir() else path
    try:
        transforms = json.loads(file.read_text())
        names = sorted(frame["file_path"] for frame in transforms["frames"])
    except (OSError, ValueError, KeyError) as error:
        raise Difix3DError(f"the scene {path} cannot be read: {error}.") from error
    folder = file.parent.absolute()
    trained = set(transforms.get("train_filenames") or names[::every])
    held_out = [name for name in names if name not in trained]
    if not trained or not held_out:
        raise Difix3DError(
            f"the scene {path} has {len(names)} photos, {len(trained)} to train on and none to hold out."
        )

    def absolute(name: str) -> str:
        return str(folder / name)

    for frame in transforms["frames"]:
        frame["file_path"] = absolute(frame["file_path"])
    if "ply_file_path" in transforms:
        transforms["ply_file_path"] = absolute(transforms["ply_file_path"])
    transforms["train_filenames"] = [absolute(name) for name in sorted(trained)]
    transforms["val_filenames"] = transforms["test_filenames"] = [absolute(name) for name in held_out]
    split = file.stem.removeprefix("transforms").strip("_")
    return SceneToCurate(f"{folder.name}-{split}" if split else folder.name, transforms)


def curate_scene(
    scene: SceneToCurate, output_dir: Path, method: str, snapshot_steps: Sequence[int], seed: int
) -> dict[str, dict[str, str]]:
    """Trains one scene and renders its held-out cameras at the given steps.

    Args:
        scene: what to train on.
        output_dir: gets a folder of the scene's name.
        method: registered method that trains; its fixes are switched off.
        snapshot_steps: training steps after which the held-out cameras are rendered.
        seed: of the training.

    Returns:
        The pairs in the published layout: `image`, `target_image`, `ref_image` and `prompt` by pair id, with
        `image` relative to `output_dir`.
    """
    trainer = _set_up_training(scene, output_dir, method, max(snapshot_steps) + 1, seed)
    pairs: dict[str, dict[str, str]] = {}

    def snapshot(step: int) -> None:
        pairs.update(_render_held_out(trainer, scene.name, output_dir, step))

    trainer.callbacks.append(
        TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], snapshot, iters=tuple(snapshot_steps))
    )
    trainer.train()
    return pairs


def _set_up_training(scene: SceneToCurate, output_dir: Path, method: str, num_iterations: int, seed: int) -> Trainer:
    from nerfstudio.configs.method_configs import all_methods

    folder = output_dir / scene.name
    folder.mkdir(parents=True, exist_ok=True)
    transforms_file = folder / "transforms.json"
    transforms_file.write_text(json.dumps(scene.transforms))

    config = deepcopy(all_methods[method])
    config.data = config.pipeline.datamanager.data = transforms_file
    config.output_dir = folder / "training"
    config.max_num_iterations = num_iterations
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.steps_per_eval_image = config.steps_per_eval_all_images = config.steps_per_eval_batch = 0
    config.steps_per_save = 10 * num_iterations
    config.pipeline.fix_novel_views = False
    config.pipeline.datamanager.dataparser.downscale_factor = 1
    config.machine.seed = seed
    config.set_timestamp()
    torch.manual_seed(seed)
    trainer = config.setup()
    trainer.setup()
    return trainer


@torch.no_grad()
def _render_held_out(trainer: Trainer, scene_name: str, output_dir: Path, step: int) -> dict[str, dict[str, str]]:
    datamanager, model = trainer.pipeline.datamanager, trainer.pipeline.model
    trainer.pipeline.eval()
    held_out, photos = datamanager.eval_dataset, datamanager.train_dataset
    assert held_out is not None and photos is not None
    nearest = nearest_poses(held_out.cameras.camera_to_worlds, photos.cameras.camera_to_worlds).tolist()
    pairs = {}
    for index, photo in enumerate(held_out.image_filenames):
        rgb = model.get_outputs_for_camera(held_out.cameras[index : index + 1])["rgb"]
        image = Path(scene_name) / f"{photo.stem}-step-{step}.png"
        save_image(rgb.permute(2, 0, 1), output_dir / image)
        pairs[f"{scene_name}-{photo.stem}-{step}"] = {
            "image": str(image),
            "target_image": str(photo),
            "ref_image": str(photos.image_filenames[nearest[index]]),
            "prompt": PROMPT,
        }
    trainer.pipeline.train()
    CONSOLE.print(f"{scene_name}: rendered {len(pairs)} held-out views at step {step}.")
    return pairs
