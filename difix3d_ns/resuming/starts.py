"""What a run starts from: nothing, the checkpoint of an earlier run of ours, or the scene of another method's run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, refuse_full_memory
from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views.files import saved_sets
from difix3d_ns.pseudo_views.views import PSEUDO_VIEW_FOLDER
from difix3d_ns.resuming.run_record import RECORD_KEY, START_NAME, UNKNOWN_METHOD, RunRecord, read_record

PLACEMENT_NAME = "dataparser_transforms.json"
"""nerfstudio's file in a run's folder that says how the dataparser placed and scaled the scene."""
OPTIONAL_MODULES = {
    "camera_optimizer.pose_adjustment": "--pipeline.model.camera-optimizer.mode SO3xR3",
    "bil_grids.grids": "--pipeline.model.use-bilateral-grid True",
}
"""Parameters that a splatfacto checkpoint may hold, one per training photo, and the option that adds them to a run."""


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    nerfstudio continues counting at the checkpoint's step and trains `max_num_iterations` more steps.
    """

    step: int
    """First step of this run; 0 from scratch."""
    end: int
    """Step at which it ends, exclusive."""
    run_folder: Path | None
    """Folder of the earlier run whose checkpoint is loaded; None from scratch."""
    earlier_run: RunRecord | None
    """How that run was trained; None from scratch."""
    origin: int
    """Step from which the schedule of fixes counts: 0 if novel views were fixed from the beginning, otherwise the step
    at which a run with fixes took over the scene of a run without."""

    def describe(self, fixes_novel_views: bool) -> str:
        """Says in whole sentences what the run starts from, if it starts from a checkpoint.

        Args:
            fixes_novel_views: whether this run fixes novel views.
        """
        method = self.earlier_run.method if self.earlier_run else UNKNOWN_METHOD
        checkpoint = "checkpoint" if method == UNKNOWN_METHOD else f"{method} checkpoint"
        start = (
            f"Starts from the {checkpoint} of step {self.step - 1} in {self.run_folder} and trains "
            f"{self.end - self.step} steps, up to step {self.end}."
        )
        if not fixes_novel_views:
            return start
        if self.origin < self.step:
            return f"{start} Its schedule of fixes continues."
        return (
            f"{start} The schedule of fixes begins at step {self.step}. Learning rates continue their decay unless "
            "--load-scheduler False restarts them."
        )

    def save(self, run_folder: Path, record: RunRecord) -> None:
        """Writes `start.json` into a run's folder, for later runs that start from its checkpoints.

        Args:
            run_folder: folder of the run that begins here; it is created if it does not exist.
            record: how this run is trained.
        """
        run_folder.mkdir(parents=True, exist_ok=True)
        content = {
            "step": self.step,
            "origin": self.origin,
            "run_folder": None if self.run_folder is None else str(self.run_folder),
            "method": "" if self.earlier_run is None else self.earlier_run.method,
            RECORD_KEY: asdict(record),
        }
        (run_folder / START_NAME).write_text(json.dumps(content, indent=1))


def start_of_run(trainer: Any) -> Start:
    """Finds out where a run begins.

    Args:
        trainer: nerfstudio's trainer, after it has loaded its checkpoint.
    """
    step, config = trainer._start_step, trainer.config
    end = step + config.max_num_iterations
    if step == 0:
        return Start(0, end, None, None, origin=0)
    checkpoints = config.load_dir or Path(config.load_checkpoint).parent
    run_folder = Path(checkpoints).absolute().parent
    earlier_run = read_record(run_folder)
    has_fixed = earlier_run.fixes_novel_views or bool(saved_sets(run_folder / PSEUDO_VIEW_FOLDER))
    return Start(step, end, run_folder, earlier_run, origin=_origin_of(run_folder, step) if has_fixed else step)


def _origin_of(run_folder: Path, step: int) -> int:
    """Step from which the schedule of an earlier run counts, at most `step`; 0 if its folder does not say."""
    try:
        origin = int(json.loads((run_folder / START_NAME).read_text())["origin"])
    except UNEXPECTED_CONTENT as error:
        refuse_full_memory(error)
        return 0
    return origin if 0 <= origin <= step else 0


def revision_of_earlier_run(start: Start, network: str) -> str | None:
    """The revision of a network with which the earlier run was trained.

    Args:
        start: where the run begins.
        network: the network's hub id.

    Returns:
        None if there is no earlier run, or it used another network or recorded no revision.
    """
    earlier_run = start.earlier_run
    return earlier_run.revision if earlier_run is not None and earlier_run.network == network else None


def require_same_frame(start: Start, transform: Float[Tensor, "3 4"], scale: float) -> None:
    """Makes sure that the loaded scene and this run's cameras share one frame of reference.

    A checkpoint whose run folder does not record its frame is accepted.

    Args:
        start: where the run begins.
        transform: the dataparser's transform from the capture's frame to the scene's.
        scale: its scale.

    Raises:
        Difix3DError: the checkpoint's run used another frame, because its photos or dataparser options differ.
    """
    if start.run_folder is not None and is_placed_as_in_training(start.run_folder, transform, scale) is False:
        raise Difix3DError(
            f"the checkpoint's run placed or scaled the scene differently (see {start.run_folder / PLACEMENT_NAME}), "
            "so it would not match this run's cameras: use the same data and the same dataparser options."
        )


def is_placed_as_in_training(run_folder: Path, transform: Float[Tensor, "3 4"], scale: float) -> bool | None:
    """Whether a run's training had this transform from the capture's frame to the scene's; None if it is not saved."""
    try:
        saved = json.loads((run_folder / PLACEMENT_NAME).read_text())
        same = torch.allclose(torch.tensor(saved["transform"]), transform.float().cpu(), atol=1e-3)
        return same and abs(float(saved["scale"]) / scale - 1) < 1e-3
    except UNEXPECTED_CONTENT as error:
        refuse_full_memory(error)
        return None


def require_gaussians(checkpoint: Mapping[str, Any]) -> None:
    """Makes sure that a checkpoint holds Gaussians.

    Args:
        checkpoint: state of the pipeline in the checkpoint, or of the model alone.

    Raises:
        Difix3DError: it holds none.
    """
    if not any(name.split(".")[-1] == "means" for name in checkpoint):
        raise Difix3DError(
            "the checkpoint contains no Gaussians, so another method wrote it: load one of difix3d or splatfacto."
        )


def require_same_modules(checkpoint: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Makes sure that this run has the optional modules that a checkpoint holds besides the Gaussians.

    Args:
        checkpoint: state of the pipeline in the checkpoint.
        own: state of the model.

    Raises:
        Difix3DError: camera corrections or bilateral grids are missing in this run, or belong to other photos.
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
                f"the checkpoint's {name} have shape {tuple(saved.shape)}, but this run needs "
                f"{tuple(own[name].shape)}: use the same training photos and the same model options."
            )
