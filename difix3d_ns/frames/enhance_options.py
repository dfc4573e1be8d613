"""The options of `ns-difix enhance`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from difix3d_ns.errors import Difix3DError

if TYPE_CHECKING:
    from difix3d_ns.fixing.fixer import DifixConfig


@dataclass
class EnhanceConfig:
    """Cleans images and videos with Difix: renders of any splat, made by any program.

    Images keep their size, bit depth (8 or 16), gray and alpha. A video keeps its frame times and its audio.
    What the chosen output cannot keep is printed at the start.
    Nothing is overwritten. After an interruption, --resume continues with what is left.
    To use several GPUs or machines that share the output folder, give the same options to
    accelerate launch --multi_gpu -m difix3d_ns.cli.enhance
    """

    # tyro keeps the line breaks of these texts in --help, so each sentence has its own line.
    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """A folder of images, a quoted pattern such as "renders/*.png", one image, or a video."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """A folder, an image file or a video file. The extension chooses the format.
    ns-difix enhance renders cleaned -- a folder of images to a folder.
    ns-difix enhance "renders/*.png" cleaned.mp4 --fps 30 -- images to a video.
    ns-difix enhance render.png cleaned.webp -- one image to one image.
    ns-difix enhance walk.mp4 cleaned.mp4 -- a video to a video.
    ns-difix enhance walk.mp4 cleaned -- a video to a folder of PNG files.
    Videos are .mp4, .mov, .m4v or .mkv. They are H.264 with 8 bits, or with 10 bits if the frames have more than 8.
    Transparent frames become ProRes 4444 in .mov and VP9 in .mkv, which keep alpha.
    H.264 and VP9 store colours at half the width and height (4:2:0).
    H.264 frames with an odd width or height are 4:4:4, which some players cannot show.
    PNG and TIFF keep 16 bits. PNG, TIFF and WebP keep alpha. Otherwise transparent frames are composited over black."""
    reference: Path | None = None
    """Photos that show the network how the place really looks. One of:
    a photo, which is the reference of all frames;
    a folder of photos, matched to the frames by name if every frame has a photo of its name, else by order;
    a transforms JSON or a scene of nerfstudio, COLMAP or Blender, with --camera-path: each frame gets the training
    photo with the nearest pose."""
    camera_path: Path | None = None
    """The cameras of the frames, if --reference is a scene. One of:
    a camera path saved in the viewer's render panel, with one camera for each frame;
    a transforms JSON in the scene's coordinates, matched to the frames by name, else by order.
    The camera path must come from a run that used the dataparser's default options."""
    previous_frame_as_reference: bool = False
    """Use the previous cleaned frame as reference, which makes videos steadier.
    Frames are then cleaned one by one, in one process, and --reference is used for the first frame only.
    By default no frame influences another, and equal frames give equal results: the network adds no noise."""
    resume: bool = False
    """Continue an interrupted command: finished images, or finished pieces of the video, are kept.
    Give the same options as before. The pieces of a video are kept beside it in the folder OUTPUT.unfinished."""
    skip_bad: bool = False
    """Skip frames that cannot be read, and report them at the end. By default the first one ends the command."""
    image_format: Literal["same", "png", "jpg", "webp", "tif"] = "same"
    """Format of the images in an output folder. `same` keeps the format of each image; frames of a video become PNG."""
    fps: float | None = None
    """Frames per second of a video made from images."""
    crf: int = 17
    """Quality of the output video, as x264's constant rate factor. ProRes does not use it.
    0 is lossless, 17 shows no visible loss, 23 makes smaller files, 51 is the worst quality."""
    video_bits: Literal["same", "8"] = "same"
    """Bits per channel of an H.264 video. `same` gives 10 bits if the frames have more than 8.
    Some players cannot show H.264 with 10 bits."""
    audio: bool = True
    """Whether the audio of the input video is copied, without coding it again."""
    frames_per_piece: int = 120
    """Number of frames in each piece of a video.
    An interrupted command loses at most one piece per process."""
    model: str = "auto"
    """The network: `auto`, `embedded`, a hub id such as nvidia/difix_ref, a folder, or a .pkl of the authors' training.
    `auto` is nvidia/difix_ref if there is a GPU and its weights are cached or can be downloaded.
    Otherwise it is the small network embedded in this package, which leaves frames as they are: it needs photos that
    are aligned by the geometry of a run, as in `ns-difix render`. The choice is printed."""
    revision: str | None = None
    """Revision of a hub id: a branch, a tag or a commit."""
    base: str | None = None
    """For a .pkl: the folder or hub id of the SD-Turbo model that its training started from."""
    strength: float = 1.0
    """Blend between the input frame (0) and the network's result (1)."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where the network runs. `auto` is the GPU if there is one, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the network. `auto` is bfloat16 on a GPU of compute capability 8.0 or more,
    and float32 elsewhere."""
    max_pixels_per_batch: int = 576 * 1024
    """Largest number of pixels that the network processes at once, which bounds its memory.
    A larger frame is a batch of its own, and its largest layers run in tiles.
    A higher number is faster on a large GPU."""
    compile: bool = False
    """Whether to compile the network with torch.compile.
    The first frame of each size is then slow, and the others are faster."""

    def check(self) -> None:
        """Raises Difix3DError if an option has an invalid value."""
        for wrong, sentence in (
            (
                self.fps is not None and not 0.001 <= self.fps <= 1000,
                f"--fps must be from 0.001 to 1000, not {self.fps}.",
            ),
            (not 0 <= self.crf <= 51, f"--crf must be from 0 to 51, not {self.crf}."),
            (self.frames_per_piece < 1, f"--frames-per-piece must be 1 or more, not {self.frames_per_piece}."),
            (
                self.max_pixels_per_batch < 1,
                f"--max-pixels-per-batch must be 1 or more, not {self.max_pixels_per_batch}.",
            ),
            (not 0 <= self.strength <= 1, f"--strength must be from 0 to 1, not {self.strength}."),
            (
                self.camera_path is not None and self.reference is None,
                "--camera-path needs a scene whose photos are the references: add the scene as --reference.",
            ),
        ):
            if wrong:
                raise Difix3DError(sentence)

    def require_used(self, is_video: bool, to_video: bool, to_folder: bool) -> None:
        """Makes sure that each option that differs from its default has an effect.

        Args:
            is_video: whether the input is a video.
            to_video: whether the output is a video.
            to_folder: whether the output is a folder of images.

        Raises:
            Difix3DError: an option has no effect.
        """
        for name, has_effect, where in (
            ("fps", to_video, "a video made from images"),
            ("crf", to_video, "a video as output"),
            ("video_bits", to_video, "a video as output"),
            ("frames_per_piece", to_video, "a video as output"),
            ("image_format", to_folder, "a folder of images as output"),
            ("audio", is_video and to_video, "a video made from a video"),
        ):
            if not has_effect and getattr(self, name) != getattr(EnhanceConfig, name):
                option = "--no-audio" if name == "audio" else f"--{name.replace('_', '-')}"
                raise Difix3DError(f"{option} is only for {where}, and the output is {self.output}: leave it out.")

    def network(self) -> DifixConfig:
        """The options of the network."""
        # Imported here because it loads torch, which --help does not need.
        from difix3d_ns.fixing.fixer import DifixConfig

        return DifixConfig(
            model=self.model,
            revision=self.revision,
            base=self.base,
            dtype=self.dtype,
            max_pixels_per_batch=self.max_pixels_per_batch,
            strength=self.strength,
            compile=self.compile,
        )
