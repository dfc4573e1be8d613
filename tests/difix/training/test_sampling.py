"""Reading pairs, and drawing crops from them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from difix.training.conftest import HEIGHT, WIDTH, save_picture

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.pairs import Pair, PairReader, load_pair, read_pairs
from difix3d_ns.difix.training.sampling import PairSampler


@pytest.fixture
def coordinates(tmp_path: Path) -> list[Pair]:
    """A pair whose images hold each pixel's row in red, its column in green, and the number of the image in blue."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    for index, name in enumerate(("render", "photo", "reference")):
        pixels = np.stack([rows / 255, columns / 255, np.full_like(rows, index * 100) / 255], axis=-1)
        save_picture(tmp_path / f"{name}.png", pixels)
    return [Pair("view", tmp_path / "render.png", tmp_path / "photo.png", tmp_path / "reference.png")]


def test_render_photo_and_reference_are_cropped_and_flipped_alike(coordinates: list[Pair]) -> None:
    sampler = PairSampler(coordinates, crop_size=16, seed=0)
    windows, flips = set(), set()
    for step in range(12):
        inputs, photos = sampler.batch(step, batch_size=1)
        assert inputs.shape == (1, 2, 3, 16, 16)
        values = (torch.cat([inputs[0], photos]) * 255).round()
        assert torch.equal(values[0, :2], values[1, :2])
        assert torch.equal(values[0, :2], values[2, :2])
        assert values[:, 2, 0, 0].tolist() == [0, 200, 100]
        windows.add(tuple(values[0, :2, 0, 0].tolist()))
        flips.add(bool(values[0, 1, 0, 0] > values[0, 1, 0, -1]))
    assert len(windows) > 6
    assert flips == {True, False}


def test_downscaled_crops_show_more_of_the_image(coordinates: list[Pair]) -> None:
    sampler = PairSampler(coordinates, crop_size=16, seed=0, min_scale=0.5)
    extents = []
    for step in range(12):
        inputs, photos = sampler.batch(step, batch_size=1)
        torch.testing.assert_close(inputs[0, 0, :2], photos[0, :2])
        extents.append(float(photos[0, 0, -1, 0] - photos[0, 0, 0, 0]) * 255)
    assert min(extents) < 20
    assert max(extents) > 25


def test_a_batch_depends_only_on_seed_and_step(coordinates: list[Pair]) -> None:
    options = {"crop_size": 16, "reference_probability": 0.5, "color_jitter": 0.3} | {
        "balance_scenes": True,
        "damage_probability": 0.5,
        "moved_photo_probability": 0.5,
        "misaligned_probability": 0.5,
    }
    first = PairSampler(coordinates, seed=1, **options)
    ahead = list(PairSampler(coordinates, seed=1, **options).batches(3, 9, batch_size=2, num_workers=3))
    assert len(ahead) == 6
    for step, (inputs, photos) in zip(range(3, 9), ahead, strict=True):
        again = first.batch(step, batch_size=2)
        assert torch.equal(again[0], inputs)
        assert torch.equal(again[1], photos)
    other = PairSampler(coordinates, seed=2, **options).batch(3, batch_size=2)
    assert not torch.equal(other[1], ahead[0][1])


def test_processes_and_parts_together_see_one_large_batch(coordinates: list[Pair]) -> None:
    sampler = PairSampler(coordinates, crop_size=16, seed=1, reference_probability=0.5, min_scale=0.5)
    for step in range(3, 7):
        whole = sampler.batch(step, batch_size=12)
        shares = [
            list(
                sampler.batches(step, step + 1, batch_size=2, num_workers=2, parts=3, process=process, num_processes=2)
            )
            for process in range(2)
        ]
        for process, share in enumerate(shares):
            assert len(share) == 3
            for each, of_whole in zip(zip(*share, strict=True), whole, strict=True):
                assert torch.equal(torch.cat(each), of_whole[process::2])


def test_all_pairs_are_drawn_equally_often_even_if_some_have_no_reference(coordinates: list[Pair]) -> None:
    pairs = [Pair(str(index), coordinates[0].image, coordinates[0].target, None) for index in range(3)]
    pairs.append(coordinates[0])
    draws: Counter[Pair] = Counter()

    class CountingReader(PairReader):
        def read(self, pair: Pair, min_side: int = 1) -> torch.Tensor | None:
            draws[pair] += 1
            return super().read(pair, min_side)

    with_reference = 0
    for step in range(300):
        sampler = PairSampler(pairs, crop_size=8, seed=step, reference_probability=0.8, reader=CountingReader())
        inputs, _ = sampler.batch(step, batch_size=1)
        with_reference += inputs.shape[1] - 1
    assert min(draws.values()) > 0.7 * 300 / 4
    assert max(draws.values()) < 1.3 * 300 / 4
    assert with_reference == pytest.approx(0.8 * 300 / 4, rel=0.3)


@pytest.fixture
def pairs_with_a_broken_one(coordinates: list[Pair], tmp_path: Path) -> list[Pair]:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return [*coordinates, Pair("broken", tmp_path / "broken.png", coordinates[0].target, coordinates[0].reference)]


def test_a_skipped_pair_is_replaced_by_another_one_and_reported_once(
    pairs_with_a_broken_one: list[Pair], capsys: pytest.CaptureFixture[str]
) -> None:
    def make() -> PairSampler:
        return PairSampler(pairs_with_a_broken_one, crop_size=16, seed=0, reader=PairReader(skip_bad=True))

    sampler = make()
    in_order = [sampler.batch(step, batch_size=2) for step in range(8)]
    assert [pair.name for pair in sampler.reader.skipped] == ["broken"]
    output = capsys.readouterr().out
    assert output.count("Skipped: ") == 1
    assert "broken.png of pair broken cannot be read" in output
    # A resumed run sees the same batches, whatever was skipped before.
    for step, batch in enumerate(in_order):
        for again, before in zip(make().batch(step, batch_size=2), batch, strict=True):
            assert torch.equal(again, before)


def test_a_broken_pair_is_an_error_by_default(pairs_with_a_broken_one: list[Pair]) -> None:
    sampler = PairSampler(pairs_with_a_broken_one, crop_size=16, seed=0)
    with pytest.raises(DifixError, match=r"broken\.png of pair broken cannot be read"):
        list(sampler.batches(0, 20, batch_size=2, num_workers=2))


def test_skipping_all_pairs_is_an_error(pairs_with_a_broken_one: list[Pair]) -> None:
    sampler = PairSampler(pairs_with_a_broken_one[1:], crop_size=16, seed=0, reader=PairReader(skip_bad=True))
    with pytest.raises(DifixError, match="none of 1 pairs can be read"):
        sampler.batch(0, batch_size=2)


def test_a_picture_too_small_for_the_network_is_named(coordinates: list[Pair], tmp_path: Path) -> None:
    save_picture(tmp_path / "photo.png", np.full((6, 40, 3), 0.5))
    with pytest.raises(DifixError, match=r"photo\.png of pair view has a side of 6 pixels"):
        PairSampler(coordinates, crop_size=16, seed=0).batch(0, batch_size=1)


def test_references_are_used_with_the_given_probability(coordinates: list[Pair]) -> None:
    def share(probability: float) -> float:
        sampler = PairSampler(coordinates, crop_size=8, seed=0, reference_probability=probability)
        return sum(sampler.batch(step, 1)[0].shape[1] == 2 for step in range(100)) / 100

    assert share(0.0) == 0.0
    assert share(1.0) == 1.0
    assert 0.5 < share(0.7) < 0.9


def test_pairs_without_reference_give_a_single_view(coordinates: list[Pair]) -> None:
    alone = Pair("alone", coordinates[0].image, coordinates[0].target, None)
    inputs, _ = PairSampler([alone], crop_size=16, seed=0).batch(0, batch_size=2)
    assert inputs.shape == (2, 1, 3, 16, 16)


def test_clean_examples_have_the_photo_as_input(coordinates: list[Pair]) -> None:
    inputs, photos = PairSampler(coordinates, crop_size=16, seed=0, clean_probability=1.0).batch(0, 1)
    assert torch.equal(inputs[:, 0], photos)
    assert not torch.equal(inputs[:, 1], photos)


def test_balanced_scenes_are_drawn_equally_often(coordinates: list[Pair], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_picture(other / "photo.png", np.ones((HEIGHT, WIDTH, 3)))
    pairs = [*coordinates * 9, Pair("other", coordinates[0].image, other / "photo.png", coordinates[0].reference)]

    def share(balance: bool) -> float:
        sampler = PairSampler(pairs, crop_size=8, seed=0, balance_scenes=balance)
        return sum(float(sampler.batch(step, 1)[1].min()) == 1 for step in range(200)) / 200

    assert share(False) < 0.2
    assert 0.3 < share(True) < 0.7


def test_balanced_training_photos_are_drawn_as_often_as_others(coordinates: list[Pair], tmp_path: Path) -> None:
    save_picture(tmp_path / "white.png", np.ones((HEIGHT, WIDTH, 3)))
    seen = Pair("seen", coordinates[0].image, tmp_path / "white.png", coordinates[0].reference, seen=True)

    def share(balance: bool) -> float:
        sampler = PairSampler([*coordinates * 9, seen], crop_size=8, seed=0, balance_seen=balance)
        return sum(float(sampler.batch(step, 1)[1].min()) == 1 for step in range(200)) / 200

    assert share(False) < 0.2
    assert 0.3 < share(True) < 0.7


@pytest.mark.parametrize(("how", "seen"), [({"trained_on_this_photo": True}, True), ({}, False), ("by hand", False)])
def test_pairs_know_whether_the_splat_was_trained_on_the_photo(tmp_path: Path, how: object, seen: bool) -> None:
    entry = {"image": "a.png", "target_image": "b.png", "how": how}
    (tmp_path / "pairs.json").write_text(json.dumps({"train": {"a": entry}}))
    assert [pair.seen for pair in read_pairs(tmp_path / "pairs.json", "train")] == [seen]


def test_damage_changes_only_the_input(coordinates: list[Pair]) -> None:
    plain, damaged = (
        PairSampler(coordinates, crop_size=16, seed=0, damage_probability=probability).batch(0, 1)
        for probability in (0.0, 1.0)
    )
    assert not torch.equal(damaged[0][:, 0], plain[0][:, 0])
    assert torch.equal(damaged[0][:, 1], plain[0][:, 1])
    assert torch.equal(damaged[1], plain[1])


def test_a_moved_photo_replaces_the_reference(coordinates: list[Pair]) -> None:
    (inputs, photos) = PairSampler(coordinates, crop_size=16, seed=0, moved_photo_probability=1.0).batch(0, 1)
    # The blue channel shows that it is the photo.
    torch.testing.assert_close(inputs[:, 1, 2], photos[:, 2])
    assert not torch.equal(inputs[:, 1], photos)


def test_only_the_reference_is_misaligned(coordinates: list[Pair]) -> None:
    plain, misaligned = (
        PairSampler(coordinates, crop_size=16, seed=0, misaligned_probability=probability).batch(0, 1)
        for probability in (0.0, 1.0)
    )
    assert torch.equal(misaligned[0][:, 0], plain[0][:, 0]) and torch.equal(misaligned[1], plain[1])
    assert not torch.equal(misaligned[0][:, 1], plain[0][:, 1])


def test_pictures_smaller_than_the_crop_are_cropped_to_their_shorter_side(coordinates: list[Pair]) -> None:
    _, photos = PairSampler(coordinates, crop_size=512, seed=0).batch(0, batch_size=1)
    assert photos.shape == (1, 3, HEIGHT, HEIGHT)


def test_a_reference_is_resized_to_the_photo(coordinates: list[Pair], tmp_path: Path) -> None:
    save_picture(tmp_path / "reference.png", np.full((20, 30, 3), 0.5))
    assert load_pair(coordinates[0]).shape == (3, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize("content", [None, b"no picture", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"])
@pytest.mark.parametrize("name", ["render", "photo", "reference"])
def test_a_picture_that_cannot_be_read_is_named(coordinates: list[Pair], name: str, content: bytes | None) -> None:
    file = coordinates[0].image.parent / f"{name}.png"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(DifixError, match=rf"{name}\.png of pair view cannot be read"):
        load_pair(coordinates[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "not laid out"),
        ('{"train": {"a": "b.png"}}', "not laid out"),
        ('{"train": {"a": {"image": "b.png"}}}', "part train: an entry has no 'target_image'"),
    ],
)
def test_a_pairs_json_with_a_mistake_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(content)
    with pytest.raises(DifixError, match=message) as error:
        read_pairs(path, "train")
    assert str(path) in str(error.value)


def test_paths_are_absolute_or_relative_to_the_json(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps({"train": {"a": {"image": "b.png", "target_image": "/c.png"}}}))
    assert read_pairs(path, "train") == [Pair("a", tmp_path / "b.png", Path("/c.png"), None)]
    assert read_pairs(path, "test") == []
