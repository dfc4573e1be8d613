"""From the options of a subcommand of `ns-difix render` to what they ask for; options without an effect are refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig

from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.given_settings import require_used_difix, require_used_references
from difix3d_ns.nerfacto.model import Difix3DNerfactoModelConfig
from difix3d_ns.options import given_settings, option_name
from difix3d_ns.printing import say
from difix3d_ns.rendering.loading import RunOptions, load_run
from difix3d_ns.rendering.output_pictures import PictureOptions, require_used_picture_options
from difix3d_ns.rendering.runs import ENHANCED, Run
from difix3d_ns.rendering.trajectory import TrajectoryOptions, require_free_destination


def load_for(
    command: Any, check: Callable[[TrainerConfig], None] | None = None, downscale_factor: float | None = None
) -> Run:
    """Loads a run, and the network before the first frame, so that a wrong one is reported at once.

    Args:
        command: the subcommand.
        check: is called with the run's config before anything is loaded; it raises Difix3DError to refuse the run.
        downscale_factor: number by which the dataparser divides the size of the photos; None for the run's own.
    """

    def require_used(config: TrainerConfig) -> None:
        require_used_by_model(command, config.pipeline.model)
        if check is not None:
            check(config)

    difix, references = given_settings(command.difix), given_settings(command.references)
    follows = getattr(command, "previous_frame_as_reference", False)
    if follows and command.clear_unseen:
        raise Difix3DError(
            "--clear-unseen True is for frames with photos as references: leave it out, or "
            "--previous-frame-as-reference."
        )
    run = load_run(
        command.load_config,
        RunOptions(
            difix,
            references,
            command.data,
            downscale_factor,
            command.eval_num_rays_per_chunk,
            command.match_colors,
            False if follows else command.clear_unseen,
            check=require_used,
        ),
    )
    fixer = run.enhancer.fixer
    require_used_difix(fixer, difix)
    require_used_references(run.enhancer.references, references, fixer.config.use_reference)
    if follows and not fixer.config.use_reference:
        raise Difix3DError(
            "--previous-frame-as-reference and --difix.use-reference False exclude each other: leave out the former, "
            "or give --difix.use-reference True."
        )
    if is_enhanced(command):
        say(f"Difix: {fixer.resolve().reason}")
        fixer.load()
        if not follows and run.enhancer.aligns_references():
            _require_no_choice(references)
        _report_clearing(run, command.clear_unseen)
    return run


def _require_no_choice(references: Mapping[str, Any]) -> None:
    """Raises Difix3DError for given settings that choose one photo, where several are aligned."""
    for name in sorted(references.keys() - {"align"}):
        raise Difix3DError(
            f"{option_name('--references.', name)} has no effect on aligned references, which are made of several "
            "photos: leave it out, or add --references.align none."
        )


def _report_clearing(run: Run, given: bool | None) -> None:
    """Prints that enhanced frames are cleared of what no photo shows, if nobody has asked for it.

    Raises:
        Difix3DError: somebody has, but it has no effect.
    """
    clears = run.enhancer.clears_unseen()
    if given and not clears:
        raise Difix3DError(
            "--clear-unseen True is for splats whose references are aligned, as the embedded network takes them: leave "
            "it out."
        )
    if given is None and clears and run.enhancer.fixer.config.strength > 0:
        say(
            "Enhanced frames show neither fog nor sharp guesses where no photo looks; --clear-unseen False leaves both."
        )


def is_enhanced(command: Any) -> bool:
    """Whether enhanced frames are rendered."""
    return any(name.removeprefix("raw-") == ENHANCED for name in command.rendered_output_names)


def require_used_by_model(command: Any, model: ModelConfig) -> None:
    """Raises Difix3DError if a given option has no effect on a run's model."""
    rays = command.eval_num_rays_per_chunk
    if rays is not None and rays < 1:
        raise Difix3DError(f"--eval-num-rays-per-chunk must be 1 or more, not {rays}.")
    if rays is not None and isinstance(model, SplatfactoModelConfig):
        raise Difix3DError("--eval-num-rays-per-chunk is for methods that render rays, not for splats: leave it out.")
    is_known = type(model).__module__.partition(".")[0] in ("nerfstudio", "difix3d_ns")
    if command.camera_idx is not None and is_known and not isinstance(model, Difix3DNerfactoModelConfig):
        raise Difix3DError(
            "--camera-idx is for models that correct each photo when they render; this run's model does that only in "
            "training: leave it out."
        )


def require_used_enhancement(command: Any) -> None:
    """Raises Difix3DError if options for enhanced frames are given, but no enhanced frames are rendered."""
    if is_enhanced(command):
        return
    given = [
        *(option_name("--difix.", name) for name in given_settings(command.difix)),
        *(option_name("--references.", name) for name in given_settings(command.references)),
        *(
            option_name("--", name)
            for name in ("match_colors", "steadiness", "previous_frame_as_reference")
            if getattr(command, name, False)
        ),
        *(["--clear-unseen"] if command.clear_unseen is not None else []),
    ]
    if given:
        raise Difix3DError(f"{given[0]} is for enhanced frames: add {ENHANCED} to --rendered-output-names.")


def trajectory_options(command: Any) -> TrajectoryOptions:
    """The options of a path.

    Raises:
        Difix3DError: a value is out of range, an option has no effect, or the destination exists.
    """
    names = list(command.rendered_output_names)
    if not 0 < command.downscale_factor < math.inf:
        raise Difix3DError(f"--downscale-factor is {command.downscale_factor}: give a number above 0.")
    if command.steadiness is not None and not 0 <= command.steadiness < 1:
        raise Difix3DError(f"--steadiness is {command.steadiness}: give a number from 0 to below 1.")
    if command.check_occlusions and not command.render_nearest_camera:
        raise Difix3DError("--check-occlusions has an effect only with --render-nearest-camera True: add that.")
    if command.output_format == "video":
        refuse_image_options(command, "videos", ", or add --output-format images")
    require_used_enhancement(command)
    options = TrajectoryOptions(
        command.output_path,
        names,
        command.output_format,
        command.image_format or "jpeg",
        jpeg_quality(command),
        picture_options(command, names),
        command.render_nearest_camera,
        command.check_occlusions,
        command.overwrite,
        command.steadiness,
        command.previous_frame_as_reference,
    )
    require_free_destination(options)
    return options


def refuse_image_options(command: Any, kind: str, remedy: str = "") -> None:
    """Raises Difix3DError if options of image files are given.

    Args:
        command: the subcommand.
        kind: what is written instead, for the message.
        remedy: what else can be done, for the message.
    """
    for name in ("image_format", "jpeg_quality"):
        if getattr(command, name) is not None:
            raise Difix3DError(f"{option_name('--', name)} is not for {kind}: leave it out{remedy}.")


def jpeg_quality(command: Any) -> int:
    """The quality of JPEG images, 1 to 100; raises Difix3DError if it is out of range or has no effect."""
    quality = command.jpeg_quality
    if quality is None:
        return 100
    if command.image_format == "png":
        raise Difix3DError("--jpeg-quality is for JPEG images, not for PNG: leave it out.")
    if not 1 <= quality <= 100:
        raise Difix3DError(f"--jpeg-quality must be from 1 to 100, not {quality}.")
    return quality


def picture_options(command: Any, names: Sequence[str]) -> PictureOptions:
    """How outputs become images; raises Difix3DError if an option has no effect on the named outputs."""
    options = PictureOptions(
        command.depth_near_plane, command.depth_far_plane, given_settings(command.colormap_options)
    )
    require_used_picture_options(options, names)
    return options
