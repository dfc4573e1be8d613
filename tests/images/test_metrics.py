"""Image metrics, with and without LPIPS weights."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
import torch

from difix3d_ns.difix.lpips import cached_backbone
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


def test_damaged_weights_of_lpips_are_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = cached_backbone("alex")
    file.parent.mkdir()
    file.write_bytes(b"half a download")
    image = torch.rand(32, 32, 3)
    assert set(ImageMetrics()(image, image.flip(0))) == {"psnr", "ssim"}
    printed = "".join(capsys.readouterr().out.split())
    assert f"AlexNetat{file}isdamaged;deleteit,sothatitisdownloadedagain." in printed


def test_psnr_and_ssim_have_known_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "load_lpips", lambda backbone: None)
    photo = torch.rand(40, 50, 3)
    values = ImageMetrics()(photo + 0.1, photo)
    assert values["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert ImageMetrics()(photo, photo)["ssim"] == pytest.approx(1.0)


def test_masked_pixels_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class MeanDifference(torch.nn.Module):
        def forward(self, image: torch.Tensor, photo: torch.Tensor, normalize: bool) -> torch.Tensor:
            return (image - photo).abs().mean()

    monkeypatch.setattr(metrics, "load_lpips", lambda backbone: MeanDifference())
    photo = torch.rand(64, 90, 3, generator=torch.Generator().manual_seed(0)) * 0.8
    mask = torch.ones(64, 90, 1, dtype=torch.bool)
    mask[:, 60:] = False
    found = []
    for hidden in (0.0, 1.0):
        render = torch.where(mask, photo + 0.1, torch.full_like(photo, hidden))
        found.append(ImageMetrics()(render, photo, mask))
    assert found[0] == found[1]
    alone = ImageMetrics()(photo[:, :60] + 0.1, photo[:, :60])
    assert found[0]["psnr"] == pytest.approx(alone["psnr"], abs=1e-3) == pytest.approx(20.0, abs=1e-3)
    assert found[0]["lpips"] == pytest.approx(alone["lpips"], abs=1e-5)
    # Windows at the mask's border contain pixels of both sides.
    assert found[0]["ssim"] == pytest.approx(alone["ssim"], abs=0.01)
    assert ImageMetrics()(photo, photo, mask)["ssim"] == pytest.approx(1.0)


def test_a_photo_without_valid_pixels_has_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "load_lpips", lambda backbone: None)
    photo = torch.rand(20, 20, 3)
    values = ImageMetrics()(photo / 2, photo, torch.zeros(20, 20, 1, dtype=torch.bool))
    assert all(value != value for value in values.values())
