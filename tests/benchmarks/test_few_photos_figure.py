"""The figure that compares two settings on all splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.few_photos_figure import GAIN, LOSS, FigureConfig, main, pairs
from benchmarks.progressive_report import means
from PIL import Image, ImageColor

RESULTS = {
    "lost biased6": {"splatfacto": {"1": {"psnr": 20.0}}, "ours-embedded": {"1": {"psnr": 16.0}}},
    "gained sparse3": {
        "splatfacto": {"1": {"psnr": 15.0}},
        "ours-embedded": {"1": {"psnr": 18.0}, "2": {"psnr": 20.0}},
    },
    "not compared": {"ours-embedded": {"1": {"psnr": 30.0}}},
}


def test_scenes_with_both_settings_are_compared_and_the_largest_gain_is_first() -> None:
    found = pairs(means(RESULTS), "splatfacto", "ours-embedded")
    assert found == [("gained sparse3", 15.0, 19.0), ("lost biased6", 20.0, 16.0)]


def test_gains_and_losses_have_their_own_colors(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    main(FigureConfig(tmp_path / "results.json", tmp_path / "figure.png"))
    with Image.open(tmp_path / "figure.png") as figure:
        colors = {color for _, color in figure.convert("RGB").getcolors(1 << 20) or []}
    assert {ImageColor.getrgb(GAIN), ImageColor.getrgb(LOSS)} <= colors


def test_settings_that_no_scene_has_are_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    with pytest.raises(SystemExit, match="both splatfacto and another"):
        main(FigureConfig(tmp_path / "results.json", tmp_path / "figure.png", after="another"))
    with pytest.raises(SystemExit, match="no such file"):
        main(FigureConfig(tmp_path / "none.json", tmp_path / "figure.png"))
