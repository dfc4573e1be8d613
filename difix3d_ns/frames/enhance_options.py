"""The options of `ns-difix enhance`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from difix3d_ns.errors import Difix3DError

if TYPE_CHECKING:
    from difix3d_ns.fixing.difix_fixer import DifixConfig


@dataclass
class EnhanceConfig:
    """Cleans pictures and videos with Difix: renders of any splat, from any program.

    Pictures keep their size, 16 bits, gray and alpha; a video keeps the times of its frames and its audio.
    Nothing is overwritten. What was finished before an interruption stays, and --resume goes on from there.
    GPUs and machines that share the output share the work: accelerate launch --multi_gpu -m difix3d_ns.cli.enhance,
    with the same options.
    """

    # tyro shows every line break of these texts, so each sentence has a line.
    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """A folder of pictures, a pattern such as "renders/*.png" in quotes, one picture, or a video."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """A folder, or a file for one picture or for a video, whose extension says in which format it is written.
    ns-difix enhance renders cleaned -- a folder of pictures to another.
    ns-difix enhance "renders/*.png" cleaned.mp4 --fps 30 -- pictures to a video.
    ns-difix enhance render.png cleaned.webp -- one picture.
    ns-difix enhance walk.mp4 cleaned.mp4 -- a video to another.
    ns-difix enhance walk.mp4 cleaned -- a video to a folder of PNG.
    Videos are H.264 of 8 bits in .mp4, .mov, .m4v or .mkv; odd sizes need yuv444p, which some players do not show.
    PNG and TIFF keep 16 bits. JPEG and BMP hold no alpha: there transparent pictures are laid over black."""
    reference: Path | None = None
    """What shows the network how the place really looks.
    A photo: the reference of all frames.
    A folder of photos: matched to the frames by name where every frame finds its own, else by order.
    A nerfstudio scene, with --camera-path: each frame gets the training photo whose pose is nearest to its own."""
    camera_path: Path | None = None
    """The cameras of the frames, for a scene as --reference.
    A camera path of the viewer's render panel, from a run with the dataparser's default options: one frame each.
    Or a transforms JSON of the frames in the coordinates of the scene's own, matched by name, else by order."""
    previous_frame_as_reference: bool = False
    """Gives the network the frame it cleaned before as reference, which steadies videos.
    Frames then go one by one in one process; --reference serves the first frame alone.
    Without it no frame influences another, and the same frame always gives the same: the network adds no noise."""
    resume: bool = False
    """Goes on with an interrupted command: finished pictures, or finished pieces of the video, are kept.
    Give the same options as before. A video's pieces wait beside it, in a folder named OUTPUT.unfinished."""
    skip_bad: bool = False
    """Passes over frames that cannot be read, and counts them; by default the first one ends the command."""
    image_format: Literal["same", "png", "jpg", "webp", "tif"] = "same"
    """Format of the pictures in a folder; `same` keeps that of each picture, and is png for a video's frames."""
    fps: float | None = None
    """Frames per second of a video made of pictures."""
    crf: int = 17
    """Quality of a video, x264's constant rate factor: 0 loses nothing, 17 shows no loss, 23 is small, 51 is worst."""
    audio: bool = True
    """Whether a video's audio is copied, packet by packet, to the new video."""
    frames_per_piece: int = 120
    """Frames of a video that are coded as one piece.
    An interrupted command loses at most one piece for each process."""
    model: str = "auto"
    """`auto`, `embedded`, a hub id such as nvidia/difix_ref, a folder or an upstream .pkl.
    `auto` takes nvidia/difix_ref where there is a GPU and its weights are cached or can be downloaded.
    Else it takes the small embedded one; which, is printed."""
    revision: str | None = None
    """Revision of a hub model: a branch, a tag or a commit."""
    base: str | None = None
    """For an upstream .pkl: the SD-Turbo folder or hub id that it was trained from."""
    strength: float = 1.0
    """Blend between the frame (0) and the network's result (1)."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where the network runs; `auto` takes the GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the network; `auto` is bfloat16 with CUDA and float32 without."""
    max_pixels_per_batch: int = 576 * 1024
    """Pixels of the frames that go through the network together, which bounds its memory.
    A larger frame goes alone, the largest layers tile by tile. More is faster on a large GPU."""
    compile: bool = False
    """Whether the network is compiled by torch.compile: faster frames after a slow first one of each size."""

    def check(self) -> None:
        """Raises Difix3DError where an option's value makes no sense."""
        for wrong, sentence in (
            (self.fps is not None and not 0 < self.fps <= 1000, f"--fps must be above 0, not {self.fps}."),
            (not 0 <= self.crf <= 51, f"--crf must lie between 0 and 51, not {self.crf}."),
            (self.frames_per_piece < 1, f"--frames-per-piece must be 1 or more, not {self.frames_per_piece}."),
            (self.max_pixels_per_batch < 1, "--max-pixels-per-batch must be 1 or more."),
            (not 0 <= self.strength <= 1, f"--strength must lie between 0 and 1, not {self.strength}."),
            (
                self.camera_path is not None and self.reference is None,
                "--camera-path tells which photo of a scene is a frame's reference: add the scene as --reference.",
            ),
        ):
            if wrong:
                raise Difix3DError(sentence)

    def network(self) -> DifixConfig:
        """The options of the network alone."""
        # Loads torch: only where something is cleaned.
        from difix3d_ns.fixing.difix_fixer import DifixConfig

        return DifixConfig(
            model=self.model,
            revision=self.revision,
            base=self.base,
            dtype=self.dtype,
            max_pixels_per_batch=self.max_pixels_per_batch,
            strength=self.strength,
            compile=self.compile,
        )
