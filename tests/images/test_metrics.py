"""Image metrics, with and without LPIPS weights."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
import torch

from difix3d_ns.images import metrics
from difix3d_ns.images.metrics import ImageMetrics


def test_lpips_is_left_out_offline_with_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    measure = ImageMetrics()
    image = torch.rand(32, 32, 3)
    values = [measure(image, image.flip(0)) for _ in range(3)]
    assert set(values[0]) == {"psnr", "ssim"}
    assert capsys.readouterr().out.count("LPIPS is left out") == 1


def test_psnr_and_ssim_have_known_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "load_lpips", lambda backbone: None)
    photo = torch.rand(40, 50, 3)
    values = ImageMetrics()(photo + 0.1, photo)
    assert values["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert ImageMetrics()(photo, photo)["ssim"] == pytest.approx(1.0)
