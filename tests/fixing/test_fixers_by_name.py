"""Fixers that are chosen by name: the identity, and those that other packages register."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from fixing import fixers_of_others

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.registry import FIXER_GROUP, registered_fixer

IMAGES = [torch.rand(6, 8, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a package that registers the fixers of `fixers_of_others`."""
    kinds = [name for name, kind in vars(fixers_of_others).items() if isinstance(kind, type)]
    info = tmp_path / "my_fixers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-fixers\nVersion: 1.0\n")
    lines = [f"{kind.lower()} = fixing.fixers_of_others:{kind}" for kind in kinds]
    (info / "entry_points.txt").write_text("\n".join([f"[{FIXER_GROUP}]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path))


def test_the_identity_returns_renders_unchanged_and_downloads_nothing() -> None:
    fixer = LazyFixer(DifixConfig(model="identity"), "cpu")
    assert fixer.fetch().name == "identity"
    assert all(torch.equal(*pair) for pair in zip(fixer.clean(IMAGES), IMAGES, strict=True))


def test_a_registered_fixer_cleans_in_bounded_batches_with_strength(installed: None) -> None:
    config = DifixConfig(model="darker", strength=0.5, max_pixels_per_batch=2 * 6 * 8)
    fixer = LazyFixer(config, "cpu")
    assert "darker (fixing.fixers_of_others:Darker)" in fixer.fetch().reason
    assert not fixer.is_loaded
    finished: list[int] = []
    for image, cleaned in zip(IMAGES, fixer.clean(IMAGES, on_progress=finished.append), strict=True):
        torch.testing.assert_close(cleaned, 0.75 * image)
    assert finished == [2, 1]
    assert fixer.load().config is config  # type: ignore[attr-defined]


def test_a_registered_fixer_that_tracks_gradients_leaves_none(installed: None) -> None:
    fixer = LazyFixer(DifixConfig(model="shuffling"), "cpu")
    for image, cleaned in zip(IMAGES, fixer.clean(IMAGES), strict=True):
        torch.testing.assert_close(cleaned, image)
        assert not cleaned.requires_grad


def test_values_a_little_outside_the_range_are_cut_off(installed: None) -> None:
    for cleaned in LazyFixer(DifixConfig(model="sharpening"), "cpu").clean(IMAGES):
        assert cleaned.min() == 0 and cleaned.max() == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cropping", r"the fixer cropping returned images of shapes .*one image of the same size for each render"),
        ("forgetful", r"the fixer forgetful returned images"),
        ("unlucky", r"the fixer unlucky \(fixing\.fixers_of_others:Unlucky\) cannot be made: its weights are missing"),
        ("cleanerless", r"the fixer cleanerless \(fixing\.fixers_of_others:Cleanerless\) has no method clean"),
        ("bytes", r"the fixer bytes returned values from .* to 25\d: it must return .* values in \[0, 1\]"),
        ("symmetric", r"the fixer symmetric returned values from -0\.9\d* to 0\.9"),
        ("arrays", r"the fixer arrays returned ndarray in place of a torch tensor"),
        ("nothing", r"the fixer nothing returned NoneType in place of a torch tensor"),
    ],
)
def test_a_broken_registered_fixer_raises_one_sentence(installed: None, name: str, sentence: str) -> None:
    with pytest.raises(DifixError, match=sentence):
        LazyFixer(DifixConfig(model=name), "cpu").clean(IMAGES)


def test_other_names_belong_to_networks() -> None:
    assert registered_fixer("embedded") is None
    assert isinstance(registered_fixer("identity"), EntryPoint)
    with pytest.raises(DifixError, match="no_such_fixer"):
        LazyFixer(DifixConfig(model="no_such_fixer"), "cpu").clean(IMAGES)
