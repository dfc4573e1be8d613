"""Finds, matches, reads and writes the images of folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from difix3d_ns.difix.errors import DifixError, reason_of
from difix3d_ns.difix.images import UNREADABLE_PICTURE, to_image_list
from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import IMAGES, natural_order, telling_errors


def pictures_in(folder: Path, what: str) -> dict[str, Path]:
    """The images in a folder and its subfolders by name, in natural order: 2 comes before 10; hidden ones are left out.

    Args:
        folder: the folder.
        what: what error messages call the images.

    Returns:
        The files by name: their path in the folder, without extension.

    Raises:
        Difix3DError: the folder is missing or has no images, or two images have the same name.
    """
    if not folder.is_dir():
        raise Difix3DError(f"the folder of {what} {folder} does not exist.")
    found: dict[str, Path] = {}
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    shown = (file for file in files if not any(part.startswith(".") for part in file.parts))
    for inside in sorted((file for file in shown if file.suffix.lower() in IMAGES), key=natural_order):
        name, file = str(inside.with_suffix("")), folder / inside
        if name in found:
            raise Difix3DError(
                f"the {what} {found[name]} and {file} have the same name except for the extension: keep one of them."
            )
        found[name] = file
    if not found:
        raise Difix3DError(f"the folder of {what} {folder} contains no images ({', '.join(IMAGES)}).")
    return found


def matched(folders: Mapping[str, Mapping[str, Path]]) -> tuple[dict[str, dict[str, Path]], str]:
    """Matches the images of several folders: by name, or in order if no name is in all folders.

    Args:
        folders: for each kind, its images by name.

    Returns:
        For each name of the first kind, its images by kind; and a phrase that says how they were matched.

    Raises:
        Difix3DError: no name is in all folders, and the folders have different numbers of images.
    """
    names = [dict.fromkeys(pictures) for pictures in folders.values()]
    shared = [name for name in names[0] if all(name in others for others in names[1:])]
    if shared:
        left_out = {kind: len(pictures) - len(shared) for kind, pictures in folders.items()}
        listed = ", ".join(f"{count} {kind}" for kind, count in left_out.items() if count)
        views = {name: {kind: pictures[name] for kind, pictures in folders.items()} for name in shared}
        return views, "matched by name" + (f"; left out because they have no counterpart: {listed}" if listed else "")
    counts = {kind: len(pictures) for kind, pictures in folders.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        raise Difix3DError(
            f"the folders do not match: no name is in all of them, and their numbers of images differ ({listed}): "
            "give the images of a view the same name in each folder."
        )
    rows = zip(*(pictures.values() for pictures in folders.values()), strict=True)
    return (
        {name: dict(zip(folders, row, strict=True)) for name, row in zip(names[0], rows, strict=True)},
        "matched in order, because no names match",
    )


def require_one_size(name: str, files: Mapping[str, Path], smallest: int) -> None:
    """Raises Difix3DError if the images of a view differ in size, are too small, or cannot be read.

    Args:
        name: name of the view.
        files: its images by kind.
        smallest: smallest allowed width and height in pixels.
    """
    sizes: dict[str, tuple[int, int]] = {}
    for kind, file in files.items():
        try:
            with Image.open(file) as picture:
                sizes[kind] = picture.size
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise Difix3DError(f"the image {file} cannot be read ({reason_of(error)}): replace it.") from error
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{kind} {width} x {height}" for kind, (width, height) in sizes.items())
        raise Difix3DError(f"the images of {name} differ in size ({listed}): bring them to one size first.")
    width, height = next(iter(sizes.values()))
    if min(width, height) < smallest:
        raise Difix3DError(
            f"the images of {name} have {width} x {height} pixels: metrics need at least {smallest} on each side."
        )


def read_picture(file: Path) -> Float[Tensor, "height width 3"]:
    """Reads an image, in [0, 1], not turned by its EXIF orientation; alpha is composited over black.

    Raises:
        Difix3DError: the file cannot be read.
    """
    try:
        with Image.open(file) as picture:
            picture.load()
            (image,) = to_image_list(picture)
    except (*UNREADABLE_PICTURE, DifixError) as error:
        raise Difix3DError(f"the image {file} cannot be read ({reason_of(error)}): replace it.") from error
    return image.permute(1, 2, 0).contiguous()


def write_picture(image: Float[Tensor, "height width 3"], file: Path) -> None:
    """Writes an image in [0, 1] as PNG.

    Raises:
        Difix3DError: the file cannot be written.
    """
    picture = Image.fromarray((image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    with telling_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
