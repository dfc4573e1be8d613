"""The options of `ns-difix evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from difix3d_ns.errors import Difix3DError
from difix3d_ns.options import shown_default

NUM_FRAMES = 30
FRAME_SIZE = 480


@dataclass
class EvaluateConfig:
    """Measures renders and enhanced renders against photos, and makes a page that compares them side by side.

    Give either a run with --load-config, or folders of images with --renders, --photos and --enhanced.
    """

    # tyro keeps the line breaks of these texts in --help, so each sentence has its own line.
    output_dir: Path
    """Folder for `index.html`, `metrics.json` and the images. It must be new or empty."""
    load_config: Path | None = None
    """The `config.yml` of a run of any nerfstudio method.
    The views of its held-out photos are rendered and enhanced."""
    data: Annotated[Path | None, shown_default("as the run was trained")] = None
    """The scene of the run, if it was moved since the training."""
    renders: Path | None = None
    """Folder of renders, instead of a run."""
    photos: Path | None = None
    """Folder of photos of the same views. Files are matched by name, or in order if no names match."""
    enhanced: Path | None = None
    """Folder of the enhanced renders, if there are any. Files are matched in the same way."""
    model: Annotated[str | None, shown_default("as the run was trained, else auto")] = None
    """Network to use instead of the run's own: `auto`, `embedded`, `identity`, a hub id, a folder, a .pkl of the
    authors' training, or the name of a fixer that another package registers."""
    base: str | None = None
    """For a .pkl: the folder or hub id of the SD-Turbo model that its training started from."""
    strength: Annotated[float | None, shown_default("as the run was trained, else 1.0")] = None
    """Blend between the render (0) and the network's result (1), instead of the run's own."""
    camera_path: Path | None = None
    """Camera path along which the flicker of a run is measured: a file saved in the viewer's render panel.
    By default the path goes through the cameras of the held-out photos."""
    num_frames: Annotated[int | None, shown_default(NUM_FRAMES)] = None
    """Number of frames on this path. Of a longer camera path, evenly spaced frames are used.
    0 turns the measurement of flicker off."""
    frame_size: Annotated[int | None, shown_default(FRAME_SIZE)] = None
    """Largest width or height of these frames in pixels; larger frames are rendered smaller."""

    def check(self) -> None:
        """Raises Difix3DError if options do not go together or a value is invalid."""
        of_folders = (self.renders, self.photos, self.enhanced)
        of_runs = (self.data, self.model, self.base, self.strength, self.camera_path, self.num_frames, self.frame_size)
        is_run, is_folders = self.load_config is not None, any(path is not None for path in of_folders)
        for wrong, sentence in (
            (
                not is_run and not is_folders,
                "there is nothing to evaluate: add --load-config, or --renders and --photos.",
            ),
            (
                is_run and is_folders,
                "both a run and folders are given: leave out --load-config, or leave out the folders.",
            ),
            (is_folders and self.renders is None, "the folder of renders is missing: add --renders."),
            (is_folders and self.photos is None, "the folder of photos is missing: add --photos."),
            (
                is_folders and any(value is not None for value in of_runs),
                "--data, --model, --base, --strength, --camera-path, --num-frames and --frame-size need a run, because "
                "folders of images cannot be rendered again: give --load-config instead of the folders.",
            ),
            (
                self.num_frames is not None and (self.num_frames < 0 or self.num_frames == 1),
                f"--num-frames is {self.num_frames}: give 2 or more, or 0 to measure no flicker.",
            ),
            (
                self.num_frames == 0 and (self.camera_path is not None or self.frame_size is not None),
                "--camera-path and --frame-size are for the measurement of flicker, which --num-frames 0 turns off: "
                "leave them out, or leave out --num-frames 0.",
            ),
            (
                self.frame_size is not None and self.frame_size < 32,
                f"--frame-size must be 32 or more, not {self.frame_size}.",
            ),
            (
                self.strength is not None and not 0 <= self.strength <= 1,
                f"--strength must be from 0 to 1, not {self.strength}.",
            ),
        ):
            if wrong:
                raise Difix3DError(sentence)
