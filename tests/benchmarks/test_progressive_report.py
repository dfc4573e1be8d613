"""The report of the benchmark of the progressive update: means, gains, tables, figure and expectations."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
from benchmarks.progressive_report import (
    COVERED,
    failed_expectations,
    gains,
    gains_table,
    means,
    read_results,
    table,
    write_report,
)
from PIL import Image

RESULTS = {
    "scene sparse3": {
        "none": {"psnr": 15.0, "ssim": 0.5},
        "published-embedded": {"psnr": 14.0, "ssim": 0.4},
        "ours-embedded": {"psnr": 15.5, "ssim": 0.55},
        "published-oracle": {"psnr": 17.0, "ssim": 0.6},
        "ours-oracle": {"psnr": 17.25, "ssim": 0.625, "lpips": 0.25},
    }
}


def test_the_report_can_be_read_again_and_marks_missing_values(tmp_path: Path) -> None:
    full_row = {variant: {"42": metrics} for variant, metrics in RESULTS["scene sparse3"].items()}
    results = {"scene sparse3": full_row, "scene biased3": {"none": {"42": {"psnr": 12.0, "ssim": 0.25}}}}
    write_report(results, tmp_path)
    assert read_results(tmp_path) == results
    assert means(results)["scene sparse3"] == RESULTS["scene sparse3"]
    text = (tmp_path / "table.md").read_text()
    header, _, full, begun = text.splitlines()[2:6]
    assert header.count("|") == full.count("|") == begun.count("|") == 7
    assert "| 15.00 / 0.500 / - |" in full and full.endswith("| 17.25 / 0.625 / 0.250 |")
    assert begun == "| scene biased3 | 12.00 / 0.250 / - |  |  |  |  |"
    assert "| mean of 1 | 15.00 / 0.500 / - |" in text and "Gained over: no fixes" in text
    assert "covered pixels (their share)" not in text
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.width > 1000 and len(figure.convert("RGB").getcolors(1 << 20) or []) > 4


def test_runs_with_several_seeds_are_averaged_with_their_spread() -> None:
    runs = {
        "1": {"psnr": 10.0, "ssim": 0.25, "psnr_enhanced": 11.0, "ssim_enhanced": 0.5},
        "2": {"psnr": 12.0, "ssim": 0.75, "psnr_enhanced": 14.0, "ssim_enhanced": 0.5, "lpips": 0.5},
    }
    mean = means({"a": {"ours-embedded": runs, "ours-oracle": {"1": {"psnr": 20.0, "ssim": 0.5}}}})
    assert table(mean).endswith("| a | 11.00 ± 1.41 / 0.500 / - | 20.00 / 0.500 / - |\n")
    enhanced = table(mean, "_enhanced")
    assert "oracle" not in enhanced and enhanced.endswith("| a | 12.50 ± 2.12 / 0.500 / - |\n")


def test_metrics_over_covered_pixels_stand_beside_those_of_whole_pictures(tmp_path: Path) -> None:
    run = {"psnr": 10.0, "ssim": 0.25, "psnr_covered": 15.0, "ssim_covered": 0.5, "share_covered": 0.625}
    results = {"a": {"none": {"1": run}}, "b": {"none": {"1": {**run, "psnr_covered": 17.0, "share_covered": 0.25}}}}
    covered = table(means(results), COVERED)
    rows = ["| a (62%) | 15.00 / 0.500 |", "| b (25%) | 17.00 / 0.500 |", "| mean of 2 | 16.00 / 0.500 |"]
    assert covered.splitlines()[2:] == rows
    write_report(results, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert covered in text and table(means(results)) in text
    # A photo of which too little is covered has no such metrics.
    alone = {"a": {"none": {"1": {"psnr": 10.0, "ssim": 0.25, "share_covered": 0.0}}}}
    assert len(table(means(alone), COVERED).splitlines()) == 2


def test_perceptual_distances_have_a_table_of_their_own(tmp_path: Path) -> None:
    measured = {"psnr": 10.0, "ssim": 0.25, "vgg": 5.0, "vgg_enhanced": 4.5}
    results = {"a": {"none": {"1": measured}, "new": {"1": {"psnr": 9.0, "ssim": 0.5}}}, "b": {"none": {"1": measured}}}
    write_report(results, tmp_path)
    (part,) = [
        part for part in (tmp_path / "table.md").read_text().split("\n\n") if part.startswith("| scene | no fixes |\n")
    ]
    assert part.splitlines()[2:] == ["| a | 5.000 / 4.500 |", "| b | 5.000 / 4.500 |", "| mean of 2 | 5.000 / 4.500 |"]
    write_report({"b": {"new": {"1": {"psnr": 9.0, "ssim": 0.5}}}}, tmp_path)
    assert "VGG" not in (tmp_path / "table.md").read_text()


def test_gains_compare_the_same_seeds_and_name_the_worst_scene() -> None:
    def runs(*psnr: float) -> dict[str, dict[str, float]]:
        return {str(seed): {"psnr": value, "ssim": 0.5, "psnr_covered": value + 1} for seed, value in enumerate(psnr)}

    # The third seed of `new` in scene a has nothing to be compared with.
    results = {
        "a": {"none": runs(10.0, 14.0), "new": runs(11.0, 15.5, 99.0)},
        "b": {"none": runs(10.0), "new": runs(9.5)},
        "c": {"new": runs(30.0)},
    }
    gained = gains(results, "none")
    assert gained["a"]["new"]["psnr"] == 1.25 and gained["a"]["new"]["psnr_std"] == pytest.approx(0.354, abs=1e-3)
    assert gained["b"]["new"] == {"psnr": -0.5, "ssim": 0.0, "psnr_covered": -0.5} and "c" not in gained
    assert gains_table(results, "none").endswith("| new | 2 | +0.38 | +0.000 | +0.38 |  | 1 | -0.50, b |\n")


@pytest.mark.parametrize(
    ("variant", "psnr", "expected"),
    [
        ("ours-oracle", 16.9, "0.10 dB below"),
        ("ours-embedded", 14.8, "cost 0.20 dB."),
        ("ours-embedded", 14.95, None),
        ("ours-identity", 16.0, "cost 0.50 dB against the identity"),
        ("ours-identity", 15.7, None),
    ],
)
def test_a_harmed_scene_is_reported(variant: str, psnr: float, expected: str | None) -> None:
    results = deepcopy(RESULTS)
    assert failed_expectations(results) == []
    results["scene sparse3"].setdefault(variant, {"ssim": 0.5})["psnr"] = psnr
    sentences = failed_expectations(results)
    assert len(sentences) == (expected is not None)
    assert expected is None or expected in sentences[0]
