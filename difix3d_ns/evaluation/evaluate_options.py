"""The options of `ns-difix evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from difix3d_ns.errors import Difix3DError


@dataclass
class EvaluateConfig:
    """Measures renders and enhanced renders against photos, and makes a page to look at them.

    Give a run by --load-config, or two or three folders of images by --renders, --photos and --enhanced.
    """

    # tyro shows every line break of these texts, so each sentence has a line.
    output_dir: Path
    """New folder for `index.html`, `metrics.json` and the images."""
    load_config: Path | None = None
    """The `config.yml` of a run of any of nerfstudio's methods: its held-out photos are rendered and enhanced."""
    renders: Path | None = None
    """Folder of renders."""
    photos: Path | None = None
    """Folder of photos of the same views."""
    enhanced: Path | None = None
    """Folder of the same renders after enhancement; may be left out."""
    model: str | None = None
    """Network in place of the run's own: embedded, a hub id, a folder or a .pkl."""
    strength: float | None = None
    """Blend between render (0) and the network's result (1), in place of the run's own."""
    camera_path: Path | None = None
    """Camera path JSON along which flicker is measured, as the viewer's render panel writes it.
    Without one, a path through the held-out photos' cameras is taken."""
    num_frames: int = 30
    """Frames of that path; of a longer camera path, every so many-th frame. 0 measures no flicker."""
    frame_size: int = 480
    """Longer side of these frames in pixels, at most."""

    def check(self) -> None:
        """Raises Difix3DError where options do not go together or a value makes no sense."""
        of_folders = (self.renders, self.photos, self.enhanced)
        of_runs = (self.model, self.strength, self.camera_path)
        is_run, is_folders = self.load_config is not None, any(path is not None for path in of_folders)
        for wrong, sentence in (
            (
                not is_run and not is_folders,
                "nothing to evaluate is given: add --load-config, or --renders and --photos.",
            ),
            (is_run and is_folders, "both a run and folders are given: leave out --load-config, or the folders."),
            (is_folders and self.renders is None, "the folder of renders is missing: add --renders."),
            (is_folders and self.photos is None, "the folder of photos is missing: add --photos."),
            (
                is_folders and any(value is not None for value in of_runs),
                "--model, --strength and --camera-path need a run, as folders hold neither cameras nor a splat: add "
                "--load-config in place of the folders.",
            ),
            (self.num_frames < 0 or self.num_frames == 1, f"--num-frames is {self.num_frames}: give 2 or more, or 0."),
            (self.frame_size < 32, f"--frame-size must be 32 or more, not {self.frame_size}."),
            (
                self.strength is not None and not 0 <= self.strength <= 1,
                f"--strength must lie in 0 to 1, not {self.strength}.",
            ),
        ):
            if wrong:
                raise Difix3DError(sentence)
