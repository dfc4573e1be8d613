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
        cameras: the photos' perspective cameras without distortion, shape (1,) each.
        read: returns a photo in [0, 1].
        render: renders a camera of shape (1,) to `depth`, along the optical axis, and `accumulation`.
        device: where photos are warped.
        read_mask: returns the valid pixels of a photo; None if all are.
        config: how photos are warped.
    """

    def __init__(
        self,
        cameras: Sequence[Cameras],
        read: Callable[[int], Float[Tensor, "height width 3"]],
        render: Callable[[Cameras], Outputs],
        device: torch.device | str,
        read_mask: Callable[[int], Bool[Tensor, "height width 1"] | None] = lambda index: None,
        config: AlignmentConfig | None = None,
    ) -> None:
        self._cameras, self._read, self._read_mask, self._render = cameras, read, read_mask, render
        self._device = torch.device(device)
        self._config = config or AlignmentConfig()
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
    ) -> AlignedReference:
        """The aligned reference of a render.

        Args:
            rgb: the render, in [0, 1].
            camera: its camera, shape (1,).
            outputs: its `depth` and `accumulation`.
            state: changes with the model, such as its step; the photos are then rendered again.
            without: index of a photo that is left out, because it is the render's own view.
        """
        if state != self._state:
            self._views.clear()
            self._state = state
        target = alignment_view(
            rgb.to(self._device), camera.to(self._device), outputs["depth"], outputs["accumulation"]
        )
        if self._blanks is None:
            self._blanks = [blank_view(camera, self._device) for camera in self._cameras]
        candidates = [index for index in self._nearest(camera) if index != without]
        chosen = photos_to_warp(target, [self._blanks[index] for index in candidates], self._config.num_photos)
        photos = [self._photo(candidates[place]) for place in chosen]
        return aligned_reference(target, photos, self._config)

    def _nearest(self, camera: Cameras) -> list[int]:
        """Indices of the photos among which those to warp are chosen, in their order."""
        if len(self._cameras) <= MAX_CANDIDATES:
            return list(range(len(self._cameras)))
        poses = torch.cat([each.camera_to_worlds.cpu() for each in self._cameras])
        _, nearest = k_nearest_poses(camera.camera_to_worlds.cpu(), poses, MAX_CANDIDATES, scene_radius(poses))
        return sorted(nearest[0].tolist())

    def _photo(self, index: int) -> AlignmentView:
        """A photo with its depth, rendered by the model as it is now and matched with other photos."""
        if index not in self._views:
            rendered = self._rendered(index)
            matches = self._all_matches().get(index)
            self._views[index] = rendered if matches is None else with_matches(rendered, matches)
        self._views.move_to_end(index)
        found = self._views[index]
        kept = sum(view.size[0] * view.size[1] for view in self._views.values())
        while kept > MAX_PIXELS and len(self._views) > 1:
            _, view = self._views.popitem(last=False)
            kept -= view.size[0] * view.size[1]
        return found

    def _rendered(self, index: int) -> AlignmentView:
        camera = self._cameras[index]
        outputs = self._render(camera.to(self._device))
        mask = self._read_mask(index)
        photo = self._read(index).to(self._device)
        return alignment_view(photo, camera, outputs["depth"], outputs["accumulation"], mask)

    def _all_matches(self) -> dict[int, DepthMap]:
        """The matched depths by photo. Photos and cameras stay the same, so they are matched once."""
        if self._matches is None:
            count = len(self._cameras) if self._config.match_photos else 0
            chosen = torch.linspace(0, max(0, count - 1), min(count, MAX_MATCHED)).round().long().tolist()
            small = [reduced_for_matching(self._rendered(index)) for index in chosen]
            self._matches = dict(zip(chosen, matches_between(small), strict=True)) if len(small) > 1 else {}
        return self._matches
