"""Continuing depths into unmatched pixels."""

from __future__ import annotations

import torch

from difix3d_ns.stereo.completion import completed


def test_known_depths_stay_and_others_lie_between_them() -> None:
    generator = torch.Generator().manual_seed(0)
    inverse = torch.rand((41, 57), generator=generator) + 0.5
    known = torch.rand((41, 57), generator=generator) < 0.1
    found = completed(inverse, known, torch.rand((41, 57, 3), generator=generator))
    assert torch.equal(found[known], inverse[known])
    assert found.min() >= inverse[known].min() - 1e-5 and found.max() <= inverse[known].max() + 1e-5


def test_a_tilted_plane_is_continued_through_a_hole() -> None:
    plane = torch.linspace(0.2, 0.4, 60).expand(40, 60)
    known = torch.ones_like(plane, dtype=torch.bool)
    known[10:30, 20:40] = False
    found = completed(plane, known, torch.full((40, 60, 3), 0.5))
    assert (found - plane).abs().max() < 0.01


def test_depth_stops_at_an_edge_of_colour() -> None:
    """Left and right halves of different colour, of which only the outer columns are known."""
    colors = torch.zeros(30, 40, 3)
    colors[:, 20:] = 1.0
    known = torch.zeros(30, 40, dtype=torch.bool)
    known[:, :3] = known[:, -3:] = True
    inverse = torch.full((30, 40), 0.2)
    inverse[:, 20:] = 0.6
    found = completed(inverse, known, colors)
    assert found[:, :18].max() < 0.3 and found[:, 22:].min() > 0.5


def test_between_a_near_and_a_far_surface_the_far_one_continues() -> None:
    known = torch.zeros(32, 32, dtype=torch.bool)
    known[:, :2] = known[:, -2:] = True
    inverse = torch.full((32, 32), 0.2)
    inverse[:, 16:] = 1.0
    found = completed(inverse, known, torch.full((32, 32, 3), 0.5))
    assert found[:, 16].max() < 0.5
