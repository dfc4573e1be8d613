"""The reference of each frame: one photo for all, a photo of a folder, or the photo of a scene nearest by pose."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import IMAGES, match_by_name_or_order
from difix3d_ns.frames.picture_files import read_picture
from difix3d_ns.frames.sources import pictures_in
from difix3d_ns.images.scene_formats import WHAT_A_SCENE_IS, format_of

MAX_PHOTOS = 4
"""Number of photos whose pixels are kept in memory. The network itself remembers more photos in encoded form."""


class References:
    """The reference of each frame.

    Args:
        photos: the photo of each frame; None for frames without one.
        how: how they were chosen, as a sentence for the user; empty without references.
        read: reads a photo, in [0, 1]; by default as an image that is shown upright, over black.
    """

    def __init__(
        self,
        photos: Sequence[Path | None],
        how: str,
        read: Callable[[Path], Float[Tensor, "height width 3"]] = lambda photo: read_picture(photo).over_black(),
    ) -> None:
        self.photos = photos
        self.how = how
        self._read = read
        self._pixels: OrderedDict[Path, Tensor] = OrderedDict()

    def __getitem__(self, index: int) -> Float[Tensor, "height width 3"] | None:
        """The reference of a frame, in [0, 1]; None if it has none.

        Raises:
            Difix3DError: the photo cannot be read.
        """
        photo = self.photos[index]
        if photo is None:
            return None
        if photo not in self._pixels:
            self._pixels[photo] = self._read(photo)
            if len(self._pixels) > MAX_PHOTOS:
                self._pixels.popitem(last=False)
        self._pixels.move_to_end(photo)
        return self._pixels[photo]


def find_references(reference: Path | None, camera_path: Path | None, names: Sequence[Path]) -> References:
    """Finds the references of all frames.

    Args:
        reference: a photo, a folder of photos, a scene, or None for no references.
        camera_path: the cameras of the frames, if `reference` is a scene.
        names: the file names of the frames.

    Raises:
        Difix3DError: the reference is missing, or it does not fit the frames.
    """
    if reference is None:
        return References([None] * len(names), "")
    if not reference.exists():
        raise Difix3DError(f"the reference {reference} is missing: give a photo, a folder of photos or a scene.")
    is_scene = format_of(reference) is not None
    if camera_path is not None:
        if not is_scene:
            raise Difix3DError(
                f"--camera-path needs a scene with cameras as --reference, and {reference} is none: leave out "
                f"--camera-path, or give {WHAT_A_SCENE_IS}."
            )
        # Imported here because it loads nerfstudio's dataparsers, which only scenes need.
        from difix3d_ns.frames.photos_by_pose import ScenePhotos

        scene = ScenePhotos(reference)
        nearest = scene.nearest(camera_path, names)
        return References(nearest, f"the photos of {reference} nearest by pose.", read=scene.read)
    if is_scene and not (reference.is_dir() and _matches(names, pictures_in(reference))):
        raise Difix3DError(
            f"the scene {reference} does not contain the cameras of the frames: add them with --camera-path, or give "
            "one photo or a folder with a photo for each frame."
        )
    if reference.is_file():
        if reference.suffix.lower() not in IMAGES:
            raise Difix3DError(f"the reference {reference} has an unknown extension: use {', '.join(IMAGES)}.")
        return References([reference] * len(names), f"{reference} for all frames.")
    photos = pictures_in(reference)
    if not photos:
        raise Difix3DError(f"the reference folder {reference} contains no images ({', '.join(IMAGES)}).")
    order, how = match_by_name_or_order(names, photos, f"the reference folder {reference}", "photos")
    return References([photos[index] for index in order], f"the photos of {reference}, matched by {how}.")


def _matches(names: Sequence[Path], photos: Sequence[Path]) -> bool:
    """Whether there is a photo for each frame."""
    try:
        match_by_name_or_order(names, photos, "", "")
    except Difix3DError:
        return False
    return True
