"""The decay of opacities."""

from __future__ import annotations

import torch

from difix3d_ns.splats.opacity_decay import decayed


def test_opacities_are_multiplied_by_the_factor() -> None:
    opacities = torch.tensor([[0.01], [0.4], [0.9]])
    torch.testing.assert_close(torch.sigmoid(decayed(torch.logit(opacities), 0.5)), opacities / 2)


def test_opacities_at_the_ends_stay_finite() -> None:
    logits = torch.tensor([[-200.0], [-6.0], [200.0]])
    found = decayed(logits, 0.998)
    assert found.isfinite().all()
    torch.testing.assert_close(torch.sigmoid(found), torch.tensor([[1e-6], [0.00247], [0.998]]), atol=1e-5, rtol=0.01)
    assert decayed(logits, 1.0).isfinite().all()
