"""The options of `ns-difix curate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from difix3d_ns.errors import Difix3DError

StrategyName = Literal["sparse", "cycle", "underfit", "cross-reference"]


@dataclass
class CurateConfig:
    """Makes pairs for training Difix: renders of splats that were trained to be degraded, against the photos.

    What is finished is not made again when the command is repeated.
    Processes and machines share the work: accelerate launch -m difix3d_ns.cli.curate, with the same options.
    """

    # tyro shows every line break of these texts, so each sentence has a line.
    scenes: tuple[Path, ...]
    """Scenes to make pairs of: transforms JSON files, or folders with a transforms.json.
    Where a file lists `train_filenames`, these are trained on and all other photos are held out."""
    output_dir: Path
    """Folder for the pictures, `pairs.json`, and for each scene a contact sheet to look at."""
    strategies: tuple[StrategyName, ...] = ("sparse", "cycle", "underfit", "cross-reference")
    """How renders get degraded; each trains a scene once, cycle twice.
    sparse: train on few photos, render the held-out ones.
    cycle: train, render a path shifted aside, train on these renders, render the photos' cameras.
    underfit: render all cameras before the training is finished.
    cross-reference: train on the photos of one camera of a rig, render those of the others."""
    test_scenes: tuple[Path, ...] = ()
    """Scenes whose pairs go into the `test` part of `pairs.json`."""
    method: str = "difix3d-mini"
    """Registered method that trains the scenes: difix3d-mini, difix3d, or another based on splatfacto.
    Its fixes of novel views are switched off."""
    num_iterations: int | None = None
    """Steps of a whole training; the method's own number if not given."""
    every: int = 8
    """In scenes without `train_filenames` sparse trains on every so many-th photo, and underfit holds these out."""
    snapshot_steps: tuple[int, ...] = ()
    """Steps at which underfit renders; if none are given, a quarter, half and three quarters of a training."""
    cycle_shift: float = 0.1
    """How far cycle shifts the cameras, as a share of the scene's median distance from them."""
    image_scale: float = 1.0
    """Factor on the size of the photos, in training and in the pairs; below 1 for photos too large to train on."""
    seed: int = 42
    """Seed of every training."""

    def check(self) -> None:
        """Raises Difix3DError where an option's value makes no sense."""
        for wrong, sentence in (
            (not self.scenes and not self.test_scenes, "no scene is given: name some by --scenes or --test-scenes."),
            (not self.strategies, "no strategy is given: name some by --strategies."),
            (self.every < 2, f"--every must be 2 or more, not {self.every}."),
            (self.num_iterations is not None and self.num_iterations < 4, "--num-iterations must be 4 or more."),
            (min(self.snapshot_steps, default=1) < 1, "--snapshot-steps count from 1."),
            (self.cycle_shift <= 0, f"--cycle-shift must be above 0, not {self.cycle_shift}."),
            (not 0 < self.image_scale <= 1, f"--image-scale must be above 0 and at most 1, not {self.image_scale}."),
        ):
            if wrong:
                raise Difix3DError(sentence)
