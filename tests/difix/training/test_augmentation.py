"""Damage to inputs, and moved views."""

from __future__ import annotations

import random

import torch

from difix3d_ns.difix.training.augmentation import damage, misalign, move_view


def test_damage_stays_in_range_and_depends_only_on_the_generator() -> None:
    picture = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    results = [damage(picture, random.Random(seed)) for seed in range(20)]
    for seed, result in enumerate(results):
        assert result.shape == picture.shape
        assert float(result.min()) >= 0 and float(result.max()) <= 1
        assert float((result - picture).abs().mean()) > 1e-3
        assert torch.equal(result, damage(picture, random.Random(seed)))
    assert not torch.equal(results[0], results[1])


def test_a_moved_view_is_the_same_image_slightly_displaced() -> None:
    rows = torch.linspace(0, 1, 48)[:, None].expand(48, 48)
    picture = torch.stack([rows, rows.T, torch.full((48, 48), 0.5)])
    moves = []
    for seed in range(20):
        moved = move_view(picture, random.Random(seed))
        assert torch.equal(moved, move_view(picture, random.Random(seed)))
        torch.testing.assert_close(moved[2], picture[2])
        moves.append(float((moved - picture)[:2, 16:32, 16:32].abs().mean()))
    assert min(moves) > 0
    assert 0.02 < max(moves) < 0.3


def test_a_misaligned_reference_shows_the_same_elsewhere_and_keeps_its_alpha() -> None:
    rows = torch.linspace(0, 1, 48)[:, None].expand(48, 48)
    reference = torch.stack([rows, rows.T, torch.full((48, 48), 0.5), torch.full((48, 48), 0.7)])
    changes = []
    for seed in range(30):
        misaligned = misalign(reference, random.Random(seed))
        assert torch.equal(misaligned, misalign(reference, random.Random(seed)))
        torch.testing.assert_close(misaligned[3], reference[3])
        assert float(misaligned.min()) >= 0 and float(misaligned.max()) <= 1
        changes.append(float((misaligned - reference).abs().mean()))
    assert 0 < min(changes) < 0.02 and 0.05 < max(changes) < 0.3  # from hardly to grossly
