"""LPIPS loads from the cache or the network, or is None."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
import torchvision

from difix3d_ns.difix.lpips import LpipsBackbone, load_lpips, lpips_backbone_available

FILES: dict[LpipsBackbone, str] = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of torch.hub, and no network."""

    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_a_cached_backbone_is_available_without_a_network(empty_cache: Path, backbone: LpipsBackbone) -> None:
    assert not lpips_backbone_available(backbone)
    assert load_lpips(backbone) is None
    (empty_cache / FILES[backbone]).touch()
    assert lpips_backbone_available(backbone)


@pytest.mark.parametrize("proxy", ["http://proxy:port", "proxy:8080/"])
def test_without_a_usable_proxy_a_backbone_counts_as_missing(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(empty_cache.parents[1]))
    monkeypatch.setenv("https_proxy", proxy)
    assert load_lpips("alex") is None


def test_a_damaged_cached_backbone_counts_as_missing(empty_cache: Path) -> None:
    (empty_cache / FILES["alex"]).write_bytes(b"half a download")
    assert load_lpips("alex") is None


def test_a_cached_backbone_gives_a_differentiable_distance_of_unclamped_images(empty_cache: Path) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), empty_cache / FILES["alex"])
    lpips = load_lpips("alex")
    assert lpips is not None
    photos = torch.rand(2, 3, 64, 64) * 2 - 1
    images = (1.5 * photos).requires_grad_(True)
    distance = lpips(images, photos)
    assert distance.flatten().shape == (2,)
    distance.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert float(lpips(photos, photos).abs().max()) == 0
    torch.testing.assert_close(
        lpips(photos / 2 + 0.5, photos.flip(0) / 2 + 0.5, normalize=True).flatten(),
        lpips(photos, photos.flip(0)).flatten(),
    )
