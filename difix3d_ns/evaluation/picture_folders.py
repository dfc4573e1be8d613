"""Folders of pictures: which there are, which belong together, and reading them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.images import to_image_list
from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import IMAGES, natural_order

NUM_NAMED = 3
"""Files that a message names; of the others it gives the number."""


def pictures_in(folder: Path, what: str) -> dict[str, Path]:
    """The pictures below a folder by name, which is the path in the folder without suffix; 2 comes before 10.

    Args:
        folder: where to look, in all folders below it as well.
        what: how a message calls them.

    Raises:
        Difix3DError: no such folder, no pictures in it, or two of one name.
    """
    if not folder.is_dir():
        raise Difix3DError(f"the folder of {what} {folder} does not exist.")
    found: dict[str, Path] = {}
    files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGES and file.is_file())
    for file in sorted(files, key=lambda file: natural_order(file.relative_to(folder))):
        name = str(file.relative_to(folder).with_suffix(""))
        if name in found:
            raise Difix3DError(
                f"the {what} {found[name]} and {file} have the same name, so it is not clear which of them is meant: "
                "leave one of them."
            )
        found[name] = file
    if not found:
        raise Difix3DError(f"the folder of {what} {folder} holds no pictures ({', '.join(IMAGES)}).")
    return found


def matched(folders: Mapping[str, Mapping[str, Path]]) -> tuple[dict[str, dict[str, Path]], str]:
    """Which pictures of several folders belong together.

    Pictures of the same name do. If no name is in all folders, they belong together in order, which takes as many of
    each.

    Args:
        folders: the pictures by name, of each kind; the names of the first kind stay.

    Returns:
        The pictures by kind, by name, and half a sentence on how they were matched.

    Raises:
        Difix3DError: no name is in all folders, and they hold different numbers of pictures.
    """
    names = [dict.fromkeys(pictures) for pictures in folders.values()]
    shared = [name for name in names[0] if all(name in others for others in names[1:])]
    if shared:
        left_out = {kind: len(pictures) - len(shared) for kind, pictures in folders.items()}
        told = ", ".join(f"{count} {kind}" for kind, count in left_out.items() if count)
        views = {name: {kind: pictures[name] for kind, pictures in folders.items()} for name in shared}
        return views, "matched by name" + (f"; without a counterpart, and left out: {told}" if told else "")
    counts = {kind: len(pictures) for kind, pictures in folders.items()}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        raise Difix3DError(
            f"the folders do not match: no name is in all of them, and their numbers of pictures differ ({told}): "
            "give the pictures of one view the same name."
        )
    rows = zip(*(pictures.values() for pictures in folders.values()), strict=True)
    return (
        {name: dict(zip(folders, row, strict=True)) for name, row in zip(names[0], rows, strict=True)},
        "matched in order, as no names match",
    )


def require_one_size(name: str, files: Mapping[str, Path], smallest: int) -> None:
    """Raises Difix3DError where the pictures of one view differ in size, are too small, or cannot be read.

    Args:
        name: of the view.
        files: its pictures by kind.
        smallest: length of a side, in pixels, from which on metrics can be taken.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for kind, file in files.items():
        try:
            with Image.open(file) as picture:
                sizes[kind] = picture.size
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise Difix3DError(f"the picture {file} cannot be read ({_reason(error)}): replace it.") from error
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{kind} {width} x {height}" for kind, (width, height) in sizes.items())
        raise Difix3DError(f"the pictures of {name} differ in size ({told}): bring them to one size first.")
    width, height = next(iter(sizes.values()))
    if min(width, height) < smallest:
        raise Difix3DError(
            f"the pictures of {name} are {width} x {height} pixels: metrics need {smallest} on each side at least."
        )


def read_picture(file: Path) -> Float[Tensor, "height width 3"]:
    """A picture in [0, 1]; alpha is laid over black.

    Raises:
        Difix3DError: it cannot be read.
    """
    try:
        with Image.open(file) as picture:
            picture.load()
            (image,) = to_image_list(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, DifixError) as error:
        raise Difix3DError(f"the picture {file} cannot be read ({_reason(error)}): replace it.") from error
    return image.permute(1, 2, 0).contiguous()


def write_picture(image: Float[Tensor, "height width 3"], file: Path) -> None:
    """Writes an image in [0, 1] as PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(file)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
