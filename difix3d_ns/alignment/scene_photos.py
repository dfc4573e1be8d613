"""The training photos of a model: read, rendered and matched when they are needed, and kept while they are the same."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.alignment.config import AlignmentConfig
from difix3d_ns.alignment.photos import matches_between, reduced_for_matching, with_matches
from difix3d_ns.alignment.reference import AlignedReference, aligned_reference
from difix3d_ns.alignment.views import AlignmentView, alignment_view, blank_view, photos_to_warp
from difix3d_ns.cameras.poses import k_nearest_poses, scene_radius
from difix3d_ns.difix.errors import refuse_full_memory
from difix3d_ns.difix.images import resize
from difix3d_ns.images.photos import READING_ERRORS
from difix3d_ns.stereo.plane_sweep import DepthMap

MAX_MATCHED = 30
"""At most this many photos are matched, evenly spaced in their order. Of the others the rendered depth is used."""
MAX_CANDIDATES = 32
"""Only this many photos, those with the nearest poses, are compared for what they show of a render."""
MAX_PIXELS = 40_000_000
"""Most pixels of photos that are kept, of about 22 bytes each."""

Outputs = Mapping[str, Any]


class ScenePhotos:
    """Makes aligned references from the training photos of a model.

    Args:
        cameras: returns the photos' perspective cameras without distortion, shape (1,) each, as the model places them
            now: the same sequence while they are the same.
        read: returns a photo in [0, 1]. If it has not the size of its camera, it is scaled to it.
        render: renders a camera of shape (1,) to `depth`, along the optical axis, and `accumulation`.
        device: where photos are warped.
        read_mask: returns the valid pixels of a photo, as large as the photo; None if all are.
        config: how photos are warped.
        report: is informed of a photo that cannot be read, by its index and the error, and references do without it;
            None raises the error.
    """

    def __init__(
        self,
        cameras: Callable[[], Sequence[Cameras]],
        read: Callable[[int], Float[Tensor, "height width 3"]],
        render: Callable[[Cameras], Outputs],
        device: torch.device | str,
        read_mask: Callable[[int], Bool[Tensor, "height width 1"] | None] = lambda index: None,
        config: AlignmentConfig | None = None,
        report: Callable[[int, BaseException], None] | None = None,
    ) -> None:
        self._cameras_now, self._read, self._read_mask, self._render = cameras, read, read_mask, render
        self._cameras: Sequence[Cameras] = ()
        self._device = torch.device(device)
        self._config = config or AlignmentConfig()
        self._report = report
        self._unreadable: set[int] = set()
        self._blanks: list[AlignmentView] | None = None
        self._matches: dict[int, DepthMap] | None = None
        self._views: OrderedDict[int, AlignmentView] = OrderedDict()
        self._state: object = None

    @torch.no_grad()
    def reference(
        self,
        rgb: Float[Tensor, "height width 3"],
        camera: Cameras,
        outputs: Outputs,
        state: object,
        without: int | None = None,
    ) -> AlignedReference | None:
        """The aligned reference of a render.

        Args:
            rgb: the render, in [0, 1].
            camera: its camera, shape (1,).
            outputs: its `depth` and `accumulation`.
            state: changes with the model, such as its step; the photos are then rendered again.
            without: index of a photo that is left out, because it is the render's own view.

        Returns:
            None if no photo is left, because it is the render's own view or cannot be read.
        """
        if state != self._state:
            self.forget()
            self._state, cameras = state, self._cameras_now()
            if cameras is not self._cameras:
                self._cameras, self._blanks = cameras, None
        target = alignment_view(
            rgb.to(self._device), camera.to(self._device), outputs["depth"], outputs["accumulation"]
        )
        if self._blanks is None:
            self._blanks = [blank_view(camera, self._device) for camera in self._cameras]
        self._all_matches()  # before photos are chosen, because unreadable ones are found here
        while True:
            candidates = [i for i in self._nearest(camera) if i != without and i not in self._unreadable]
            if not candidates:
                return None
            chosen = photos_to_warp(target, [self._blanks[index] for index in candidates], self._config.num_photos)
            found = [self._photo(candidates[place]) for place in chosen]
            photos = [photo for photo in found if photo is not None]
            if len(photos) == len(found):
                return aligned_reference(target, photos, self._config)

    def forget(self) -> None:
        """Frees the memory of the photos. They are read and rendered again when they are needed."""
        self._views.clear()

    def _nearest(self, camera: Cameras) -> list[int]:
        """Indices of the photos among which those to warp are chosen, in their order."""
        if len(self._cameras) <= MAX_CANDIDATES:
            return list(range(len(self._cameras)))
        poses = torch.cat([each.camera_to_worlds.cpu() for each in self._cameras])
        _, nearest = k_nearest_poses(camera.camera_to_worlds.cpu(), poses, MAX_CANDIDATES, scene_radius(poses))
        return sorted(nearest[0].tolist())

    def _photo(self, index: int) -> AlignmentView | None:
        """A photo with its depth, rendered by the model as it is now and matched with other photos.

        None if the photo cannot be read.
        """
        if index not in self._views:
            prepared = self._rendered(index)
            if prepared is None:
                return None
            rendered, mask = prepared
            matches = self._all_matches().get(index)
            self._views[index] = rendered if matches is None else with_matches(rendered, matches, mask)
        self._views.move_to_end(index)
        found = self._views[index]
        kept = sum(view.size[0] * view.size[1] for view in self._views.values())
        while kept > MAX_PIXELS and len(self._views) > 1:
            _, view = self._views.popitem(last=False)
            kept -= view.size[0] * view.size[1]
        return found

    def _rendered(self, index: int) -> tuple[AlignmentView, Bool[Tensor, "height width 1"] | None] | None:
        """A photo with its rendered depth, and its valid pixels; None if it cannot be read."""
        try:
            photo, mask = self._read(index), self._read_mask(index)
        except READING_ERRORS as error:
            if self._report is None:
                raise
            refuse_full_memory(error)
            self._unreadable.add(index)
            self._report(index, error)
            return None
        camera = self._cameras[index]
        photo = _of_size(photo.to(self._device), camera)
        # A pixel is valid if no masked one is mixed into it.
        mask = None if mask is None else _of_size((~mask).float(), camera) == 0
        outputs = self._render(camera.to(self._device))
        return alignment_view(photo, camera, outputs["depth"], outputs["accumulation"], mask), mask

    def _all_matches(self) -> dict[int, DepthMap]:
        """The matched depths by photo. They are matched once: photos stay the same, and cameras nearly so."""
        if self._matches is None:
            count = len(self._cameras) if self._config.match_photos else 0
            chosen = torch.linspace(0, max(0, count - 1), min(count, MAX_MATCHED)).round().long().tolist()
            small: dict[int, AlignmentView] = {}
            for index in chosen:  # one at a time: 30 photos in full size may not fit into memory together
                rendered = self._rendered(index)
                if rendered is not None:
                    small[index] = reduced_for_matching(rendered[0])
                del rendered
            matches = matches_between([*small.values()]) if len(small) > 1 else []
            self._matches = dict(zip(small, matches, strict=False))
        return self._matches


def _of_size(image: Float[Tensor, "_ _ channels"], camera: Cameras) -> Float[Tensor, "height width channels"]:
    """An image scaled to a camera's size, which `--downscale-factor` can make another than that of the photos."""
    return resize(image.permute(2, 0, 1)[None], int(camera.height), int(camera.width))[0].permute(1, 2, 0)
