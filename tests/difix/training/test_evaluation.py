"""The metrics and panels of the test pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from difix.tiny_network import make_tiny
from difix.training.conftest import HEIGHT, WIDTH

from difix3d_ns.difix.images import to_image_list
from difix3d_ns.difix.training.evaluation import evaluate, mean_metrics, psnr_and_ssim
from difix3d_ns.difix.training.pairs import PairReader, load_pair, read_pairs
from difix3d_ns.difix.training.vgg import PerceptualLoss, VggFeatures


def test_the_unchanged_render_is_measured_along_with_the_network(pairs_json: Path, vgg_weights: Path) -> None:
    with_reference, other = read_pairs(pairs_json, "train")
    pairs = [with_reference, replace(other, reference=None)]
    perceptual = PerceptualLoss(VggFeatures.from_file(vgg_weights))
    evaluation = evaluate(make_tiny(), pairs, perceptual=perceptual, num_panels=1)
    kinds = ("psnr", "ssim", "vgg_perceptual_distance")
    for metrics, names in zip(
        evaluation.metrics,
        (("nothing", "without_reference", "with_reference"), ("nothing", "without_reference")),
        strict=True,
    ):
        assert set(metrics) == {f"{kind}_{name}" for kind in kinds for name in names}
    views = load_pair(with_reference)
    assert evaluation.metrics[0]["psnr_nothing"] == pytest.approx(psnr_and_ssim(views[:1], views[1:2])[0])
    expected = perceptual.measure(views[:1], views[1:2])
    assert evaluation.metrics[0]["vgg_perceptual_distance_nothing"] == pytest.approx(expected)


def test_a_difference_of_a_tenth_is_20_db() -> None:
    photo = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 0.9
    psnr, ssim = psnr_and_ssim(photo + 0.1, photo)
    assert psnr == pytest.approx(20, abs=1e-3)
    assert 0.5 < ssim < 1
    assert psnr_and_ssim(photo, photo) == pytest.approx((120, 1))


def test_panels_show_render_results_and_photo_side_by_side(pairs_json: Path) -> None:
    pairs = read_pairs(pairs_json, "train")
    pipeline = make_tiny()
    ((name, panel),) = evaluate(pipeline, pairs, num_panels=1).panels.items()
    assert name == pairs[0].name
    assert panel.shape == (HEIGHT, 4 * WIDTH, 3)
    render, photo, reference = load_pair(pairs[0])
    alone, guided = pipeline(render), pipeline(render, reference)
    columns = [render, *(to_image_list(result.images)[0] for result in (alone, guided)), photo]
    for shown, picture in zip(np.split(panel, 4, axis=1), columns, strict=True):
        assert np.abs(shown / 255 - picture.permute(1, 2, 0).numpy()).max() < 1 / 255


def test_skipped_pairs_are_not_measured(pairs_json: Path) -> None:
    (pairs_json.parent / "render_0.png").write_bytes(b"no picture")
    reader = PairReader(skip_bad=True)
    evaluation = evaluate(make_tiny(), read_pairs(pairs_json, "train"), reader, num_panels=2)
    assert len(evaluation.metrics) == 1
    assert list(evaluation.panels) == ["view_1"]
    assert [pair.name for pair in reader.skipped] == ["view_0"]


def test_a_mean_is_over_the_pairs_that_have_the_metric() -> None:
    assert mean_metrics([{"a": 1.0, "b": 5.0}, {"a": 2.0}]) == {"a": 1.5, "b": 5.0}
    assert mean_metrics([]) == {}
