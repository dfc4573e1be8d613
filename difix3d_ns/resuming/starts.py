"""What a run starts from: nothing, a run of ours that it goes on with, or the Gaussians of another run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT
from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views.files import saved_sets
from difix3d_ns.pseudo_views.views import PSEUDO_VIEW_FOLDER

START_NAME = "start.json"
"""File in a run's folder that says what the run started from."""
OPTIONAL_MODULES = {
    "camera_optimizer.pose_adjustment": "--pipeline.model.camera-optimizer.mode SO3xR3",
    "bil_grids.grids": "--pipeline.model.use-bilateral-grid True",
}
"""Parameters that a splatfacto checkpoint has one of per training photo, and the option that makes ours have them."""


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    nerfstudio goes on counting from the checkpoint's step and takes `max_num_iterations` more.
    """

    step: int
    """First step of this run; 0 from scratch."""
    end: int
    """Step at which it ends."""
    run_folder: Path | None
    """Folder of the run whose checkpoint is loaded; None from scratch."""
    method: str
    """Method that wrote the checkpoint; `unknown` where its run has no config, empty from scratch."""
    origin: int
    """Step from which the schedule of the fixes counts: where the Gaussians came from a run without fixes, the step at
    which they did; 0 where novel views were fixed from the beginning."""

    def __str__(self) -> str:
        source = f"{self.method} checkpoint" if self.method != "unknown" else "checkpoint"
        told = (
            f"Starts from the {source} of step {self.step - 1} in {self.run_folder}, for {self.end - self.step} steps "
            f"to step {self.end}."
        )
        if self.origin < self.step:
            return f"{told} The schedule of its fixes goes on."
        return (
            f"{told} Fixes are scheduled from step {self.step} on. Learning rates stay as decayed as they were, unless "
            "--load-scheduler False starts them anew, and Gaussians are split until --pipeline.model.stop-split-at."
        )

    def save(self, run_folder: Path) -> None:
        """Writes it into the run's folder, for a run that goes on from this one's checkpoints."""
        run_folder.mkdir(parents=True, exist_ok=True)
        source = None if self.run_folder is None else str(self.run_folder)
        content = {"step": self.step, "origin": self.origin, "run_folder": source, "method": self.method}
        (run_folder / START_NAME).write_text(json.dumps(content, indent=1))


def start_of_run(trainer: Any) -> Start:
    """Where the run of nerfstudio's trainer begins, once it has loaded its checkpoint."""
    step, config = trainer._start_step, trainer.config
    end = step + config.max_num_iterations
    if step == 0:
        return Start(0, end, None, "", origin=0)
    checkpoints = config.load_dir or Path(config.load_checkpoint).parent
    run_folder = Path(checkpoints).absolute().parent
    has_fixed = bool(saved_sets(run_folder / PSEUDO_VIEW_FOLDER))
    method = "unknown"
    try:
        text = (run_folder / "config.yml").read_text()
    except OSError:
        pass
    else:
        # Read as text: loading nerfstudio's YAML would run the constructors that it names.
        found = re.search(r"^method_name: (\S+)", text, re.MULTILINE)
        method = found[1] if found else method
        was_to_fix = not re.search(r"^\s*fix_novel_views: false", text, re.MULTILINE)
        has_fixed = has_fixed or ("Difix3DPipelineConfig" in text and was_to_fix)
    return Start(step, end, run_folder, method, origin=_origin_of(run_folder, step) if has_fixed else step)


def _origin_of(run_folder: Path, step: int) -> int:
    """Step from which the schedule of an earlier run counted, at most `step`; 0 if its folder does not say."""
    try:
        origin = int(json.loads((run_folder / START_NAME).read_text())["origin"])
    except UNEXPECTED_CONTENT:
        return 0
    return origin if 0 <= origin <= step else 0


def revision_of_earlier_run(start: Start, model: str) -> str | None:
    """The revision of a network that the run which this one goes on from was trained with.

    Args:
        start: where the run begins.
        model: the network's hub id.

    Returns:
        None where there is no such run, or it had another network.
    """
    if start.run_folder is None:
        return None
    try:
        # Composed, not constructed: loading nerfstudio's YAML would run the constructors that it names.
        node = yaml.compose((start.run_folder / "config.yml").read_text(), Loader=yaml.SafeLoader)
        for name in ("pipeline", "difix"):
            node = {key.value: value for key, value in node.value}[name]
        network = {key.value: value for key, value in node.value}
        revision = network["revision"]
        is_given = isinstance(revision, yaml.ScalarNode) and not revision.tag.endswith(":null")
        return revision.value if is_given and network["model"].value == model else None
    except (*UNEXPECTED_CONTENT, yaml.YAMLError):
        return None


def require_same_frame(start: Start, transform: Float[Tensor, "3 4"], scale: float) -> None:
    """Makes sure that the loaded Gaussians lie where this run's cameras look.

    Args:
        start: where the run begins.
        transform: the dataparser's transform from the capture's frame into the scene's.
        scale: its scale.

    Raises:
        Difix3DError: the checkpoint's run placed its scene otherwise, as with other photos or dataparser settings.
    """
    if start.run_folder is None:
        return
    file = start.run_folder / "dataparser_transforms.json"
    try:
        saved = json.loads(file.read_text())
        same = torch.allclose(torch.tensor(saved["transform"]), transform.float().cpu(), atol=1e-3)
        same = same and abs(float(saved["scale"]) / scale - 1) < 1e-3
    except UNEXPECTED_CONTENT:
        return  # a checkpoint alone, without its run, is not told
    if not same:
        raise Difix3DError(
            f"the checkpoint's run placed the scene otherwise than this one, as {file} says, so its Gaussians would "
            "lie beside this run's cameras: give the same data and the same options of the dataparser."
        )


def require_same_modules(checkpoint: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Makes sure that what a checkpoint holds beside Gaussians has its place in this run.

    Args:
        checkpoint: state of the pipeline in the checkpoint.
        own: state of the model.

    Raises:
        Difix3DError: camera corrections or bilateral grids are missing here, or made for other photos.
    """
    for name, option in OPTIONAL_MODULES.items():
        saved = checkpoint.get(f"_model.{name}", checkpoint.get(f"_model.module.{name}"))
        if saved is None:
            continue
        if name not in own:
            raise Difix3DError(
                f"the checkpoint holds {name.split('.')[0]} parameters, which this run lacks: add {option}."
            )
        if saved.shape != own[name].shape:
            raise Difix3DError(
                f"the checkpoint's {name} have shape {tuple(saved.shape)} where this run has {tuple(own[name].shape)}: "
                "give the same training photos and the same model options."
            )
