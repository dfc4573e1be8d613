"""The options of `ns-difix curate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from difix3d_ns.errors import Difix3DError

StrategyName = Literal["sparse", "cycle", "underfit", "cross-reference"]
ReferenceKind = Literal["raw", "aligned"]


@dataclass
class CurateConfig:
    """Makes pairs for training Difix: degraded renders and the photos of the same views.

    Running the command again makes only what is missing.
    To share the work between processes or machines, run accelerate launch -m difix3d_ns.cli.curate with these options.
    """

    # tyro shows every line break of these texts, so each sentence has its own line.
    output_dir: Path
    """Folder for the images, `pairs.json`, and one contact sheet per scene.
    Several commands may share it: each makes only what is missing, and its `pairs.json` lists only its own scenes.
    A scene whose name belongs to another one there gets a number after it."""
    scenes: tuple[Path, ...] = ()
    """Scenes to make pairs from: transforms JSON files, or folders of any scene that nerfstudio reads.
    If a scene lists photos to train on, such as `train_filenames`, all others are held out."""
    strategies: tuple[StrategyName, ...] = ("sparse", "cycle", "underfit", "cross-reference")
    """Ways to make degraded renders. Each strategy trains a scene once, except for cycle, which trains it twice.
    sparse: train on few photos, and render the held-out views.
    cycle: train, render all views shifted sideways, train on these renders, and render the original views.
    underfit: render all views before the training is finished.
    cross-reference: train on the photos of one camera of a rig, and render the views of the other cameras."""
    test_scenes: tuple[Path, ...] = ()
    """Scenes whose pairs go into the `test` part of `pairs.json`."""
    method: str = "difix3d-mini"
    """Registered nerfstudio method that trains the scenes: difix3d-mini, difix3d, or another one based on splatfacto.
    It has no novel views while making pairs, except with --fixer."""
    fixer: str | None = None
    """Fixer of novel views in the trainings, as in --pipeline.difix.model; by default, they have no novel views.
    identity: novel views are kept as rendered, so that renders have the artifacts of runs with novel views."""
    num_iterations: int | None = None
    """Steps of a complete training; by default, those of the method."""
    every: int = 8
    """In scenes without `train_filenames`, sparse trains on every n-th photo, and underfit holds these photos out."""
    snapshot_steps: tuple[int, ...] = ()
    """Steps at which underfit renders; by default, a quarter, half and three quarters of a complete training."""
    cycle_shift: float = 0.1
    """Distance by which cycle shifts the cameras, as a fraction of the median depth that they see."""
    image_scale: float = 1.0
    """Factor on the size of the photos in training and in the pairs, for photos that are too large to train on."""
    seed: int = 42
    """Seed of all trainings."""
    references: ReferenceKind = "raw"
    """What the reference of a pair is.
    raw: the nearest photo, other than that of the pair itself.
    aligned: training photos warped into the render by depth, with alpha that says how well they fit there.
    Pairs that were made earlier stay as they are, so give another --output-dir for other references."""

    def check(self) -> None:
        """Raises Difix3DError if an option has an invalid value."""
        for wrong, sentence in (
            (not self.scenes and not self.test_scenes, "no scene is given: give some with --scenes or --test-scenes."),
            (not self.strategies, "no strategy is given: give some with --strategies."),
            (self.every < 2, f"--every must be 2 or more, not {self.every}."),
            (self.num_iterations is not None and self.num_iterations < 4, "--num-iterations must be 4 or more."),
            (min(self.snapshot_steps, default=1) < 1, "--snapshot-steps must be 1 or more."),
            (self.cycle_shift <= 0, f"--cycle-shift must be above 0, not {self.cycle_shift}."),
            (not 0 < self.image_scale <= 1, f"--image-scale must be above 0 and at most 1, not {self.image_scale}."),
        ):
            if wrong:
                raise Difix3DError(sentence)
