"""Depths of photos that are matched with each other."""

from __future__ import annotations

from dataclasses import replace

import torch
from alignment.aligned_planes import blurred_render, photos, view_at
from stereo.planes_scene import CENTERS

from difix3d_ns.alignment.photos import matched_photos
from difix3d_ns.alignment.reference import aligned_reference


def test_wrong_depths_of_photos_become_those_at_which_they_match() -> None:
    wrong, right = photos(depth_error=0.25), photos()
    for photo, true in zip(matched_photos(wrong), right, strict=True):
        assert photo.confirmed.float().mean() > 0.3
        assert (photo.depth / true.depth - 1).abs()[photo.confirmed].quantile(0.9) < 0.02


def test_a_far_too_near_render_is_moved_to_what_the_photos_match_at() -> None:
    render, sharp = blurred_render()
    floater = replace(render, depth=render.depth * 0.6)
    matched = matched_photos(photos())
    reference = aligned_reference(floater, matched)
    shown = reference.validity > 0.1
    assert shown.float().mean() > 0.5
    assert (reference.rgb - sharp).abs().mean(dim=-1)[shown].median() < 0.03


def test_a_photo_alone_keeps_its_rendered_depth() -> None:
    alone = view_at(CENTERS[0])
    (found,) = matched_photos([alone])
    assert torch.equal(found.depth, alone.depth) and not found.confirmed.any()
