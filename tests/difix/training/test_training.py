"""The training loop learns, can be interrupted, and saves a network that loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from difix.tiny_network import TINY
from difix.training.conftest import save_picture
from PIL import Image
from safetensors.torch import load_file
from scipy import ndimage

from difix3d_ns.difix.architecture import build_difix
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.average import WeightAverage, network_weights
from difix3d_ns.difix.training.checkpoint import TrainingState
from difix3d_ns.difix.training.networks import start_network, trainable_parameters
from difix3d_ns.difix.training.start_autoencoder import start_autoencoder
from difix3d_ns.difix.training.train import learning_rate_factor, train
from difix3d_ns.difix.training.train_options import LossConfig, TrainConfig

MakeConfig = Callable[..., TrainConfig]


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value
        for part in ("vae", "unet")
        for name, value in load_file(folder / part / "diffusion_pytorch_model.safetensors").items()
    }


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Sum of the absolute differences between weights."""
    return sum(float((a[name] - b[name]).abs().sum()) for name in a)


def test_one_blurred_and_noisy_image_is_learnt_to_above_30_db(make_config: MakeConfig, tmp_path: Path) -> None:
    rows, columns = np.mgrid[0:48, 0:48]
    photo = 0.5 + 0.2 * np.stack([np.sin(rows / 5 + c) + np.cos(columns / 6 - c) for c in range(3)], axis=-1)
    photo[12:30, 18:36] = [0.85, 0.3, 0.2]
    noise = np.random.default_rng(0).normal(0, 0.08, photo.shape)
    save_picture(tmp_path / "photo.png", photo)
    save_picture(tmp_path / "render.png", ndimage.gaussian_filter(photo, (2, 2, 0)) + noise)
    entry = {"image": "render.png", "target_image": "photo.png", "ref_image": "photo.png"}
    (tmp_path / "one.json").write_text(json.dumps({"train": {"a": entry}, "test": {"a": entry}}))

    torch.manual_seed(0)
    sizes = {"vae_block_out_channels": (16, 16, 16, 16), "vae_norm_num_groups": 1, "latent_channels": 6}
    identity = build_difix(replace(TINY, **sizes))
    torch.nn.init.zeros_(identity.unet.conv_out.weight)
    start_autoencoder(identity)
    identity.save_pretrained(tmp_path / "identity")
    config = make_config(
        pairs=tmp_path / "one.json",
        base=str(tmp_path / "identity"),
        steps=250,
        crop_size=48,
        learning_rate=3e-3,
        warmup_steps=10,
        schedule="cosine",
        ema_decay=0.0,
        loss=LossConfig(l2=1.0, backbone="none"),
        steps_per_save=1000,
        steps_per_validation=1000,
    )
    metrics = train(config)
    assert metrics["psnr_nothing"] < 22
    assert metrics["psnr_with_reference"] > 30
    assert metrics["psnr_without_reference"] > 30


def test_an_interrupted_training_ends_with_the_same_weights(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"schedule": "cosine", "reference_probability": 0.5, "color_jitter": 0.2, "min_scale": 0.8} | {
        "balance_scenes": True,
        "damage_probability": 0.5,
        "moved_photo_probability": 0.5,
    }
    train(make_config(output_dir=tmp_path / "whole", **settings))

    interrupted = make_config(output_dir=tmp_path / "parts", **settings)
    update, calls = WeightAverage.update, []

    def stop_at_the_fourth_step(average: WeightAverage, pipeline: DifixPipeline) -> None:
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        update(average, pipeline)

    monkeypatch.setattr(WeightAverage, "update", stop_at_the_fourth_step)
    with pytest.raises(KeyboardInterrupt):
        train(interrupted)
    monkeypatch.undo()
    torch.manual_seed(7)  # the resuming process has other random numbers
    train(interrupted)

    whole, parts = saved_weights(tmp_path / "whole"), saved_weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_training_resumed_with_a_learning_rate_of_zero_keeps_its_weights(make_config: MakeConfig) -> None:
    options = {"ema_decay": 0.0, "weight_decay": 0.5}
    config = make_config(steps=2, **options)
    train(config)
    before = saved_weights(config.output_dir)
    train(make_config(steps=4, learning_rate=0.0, **options))
    after = saved_weights(config.output_dir)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_resumed_training_goes_on_with_the_rates_and_the_weight_decay_that_it_is_given(
    make_config: MakeConfig,
) -> None:
    settings = {"schedule": "cosine", "warmup_steps": 8}
    config = make_config(steps=2, weight_decay=0.01, **settings)
    train(config)
    resumed = make_config(
        steps=4, learning_rate=1e-4, autoencoder_learning_rate=1e-5, weight_decay=0.3, steps_per_save=3, **settings
    )
    train(resumed)
    state = torch.load(config.output_dir / "training" / "checkpoint.pt", weights_only=True)
    assert state["step"] == state["scheduler"]["last_epoch"] == 4
    groups = state["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.3]
    assert [group["initial_lr"] for group in groups] == state["scheduler"]["base_lrs"] == [1e-5, 1e-4]
    factor = learning_rate_factor(4, resumed)
    assert [group["lr"] for group in groups] == [1e-5 * factor, 1e-4 * factor]
    assert {int(each["step"]) for each in state["optimizer"]["state"].values()} == {4}


def test_the_first_step_after_resuming_has_the_new_rate_at_its_place_in_the_schedule(make_config: MakeConfig) -> None:
    options = {"warmup_steps": 8, "steps_per_save": 1}

    def resumed(rate: float, decay: float) -> tuple[TrainingState, TrainConfig]:
        config = make_config(learning_rate=rate, **options)
        pipeline = start_network(config)
        parameters = trainable_parameters(pipeline, "decoder")
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
        return TrainingState(pipeline, optimizer, scheduler, WeightAverage(pipeline, 0.0)), config

    first, config = resumed(1e-3, 0.01)
    for _ in range(3):
        first.optimizer.step()
        first.scheduler.step()
    file = config.output_dir / "checkpoint.pt"
    first.save(file, 3)
    for rate, decay in ((1e-3, 0.01), (1e-4, 0.2)):
        state, config = resumed(rate, decay)
        assert state.restore(file) == 3
        (group,) = state.optimizer.param_groups
        assert group["lr"] == state.scheduler.get_last_lr()[0] == rate * learning_rate_factor(3, config)
        assert group["weight_decay"] == decay
        state.optimizer.step()
        state.scheduler.step()
        assert group["lr"] == rate * learning_rate_factor(4, config)


def test_the_network_is_measured_and_saved_in_the_given_number_format(make_config: MakeConfig) -> None:
    config = make_config(save_dtype="float16")
    metrics = train(config)
    written = json.loads((config.output_dir / "metrics.json").read_text())
    assert written["metrics"] == metrics
    assert written["num_test_pairs"] == 1
    assert set(metrics) == {
        f"{metric}_{name}" for metric in ("psnr", "ssim") for name in ("nothing", "with_reference", "without_reference")
    }
    assert {value.dtype for value in saved_weights(config.output_dir).values()} == {torch.float16}
    loaded = DifixPipeline.from_pretrained(config.output_dir)
    assert loaded.config["trained_with_reference"]
    image = torch.rand(1, 3, 40, 48)
    assert loaded(image, image, output_type="pt").images.shape == image.shape
    assert list((config.output_dir / "training" / "logs").iterdir())


@pytest.mark.parametrize("train_parts", [None, "unet-decoder"])
def test_published_and_unet_decoder_do_not_train_the_encoder(
    make_config: MakeConfig, tiny_base: Path, train_parts: str | None
) -> None:
    config = make_config(train_parts=train_parts, steps=2)
    train(config)
    before, after = saved_weights(tiny_base), saved_weights(config.output_dir)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name.split(".")[1] for name in changed if name.startswith("vae.")} == {"decoder"}
    assert any("skip_conv" in name for name in changed)
    assert any(name.startswith("unet.") for name in changed)
    # A LoRA does not change biases and normalisations.
    assert any(name.endswith(".bias") for name in changed if ".decoder." in name) == (train_parts == "unet-decoder")


def test_training_the_decoder_changes_nothing_else(make_config: MakeConfig, tiny_base: Path) -> None:
    config = make_config(train_parts="decoder", steps=2)
    train(config)
    before, after = saved_weights(tiny_base), saved_weights(config.output_dir)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all(name.startswith("vae.decoder.") for name in changed)


def test_pairs_without_a_test_part_train_without_validation(
    make_config: MakeConfig, pairs_json: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs_json.write_text(json.dumps({"train": json.loads(pairs_json.read_text())["train"]}))
    config = make_config(steps=2)
    assert train(config) == {}
    assert "no part test" in capsys.readouterr().out
    assert json.loads((config.output_dir / "metrics.json").read_text())["num_test_pairs"] == 0


def test_pairs_without_a_train_part_are_refused_by_name(make_config: MakeConfig, pairs_json: Path) -> None:
    pairs_json.write_text(json.dumps({"test": json.loads(pairs_json.read_text())["test"]}))
    with pytest.raises(DifixError, match=r"pairs\.json.*part train is missing or empty"):
        train(make_config())


def test_a_broken_picture_stops_the_training_and_is_named(make_config: MakeConfig, pairs_json: Path) -> None:
    for index in range(2):
        (pairs_json.parent / f"render_{index}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(DifixError, match=r"render_[01]\.png of pair view_[01] cannot be read"):
        train(make_config())


def test_broken_images_can_be_skipped_and_are_counted(
    make_config: MakeConfig, pairs_json: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("render_0.png", "photo_2.png"):  # one of the training pairs, and the only test pair
        (pairs_json.parent / name).write_bytes(b"no picture")
    config = make_config(skip_bad=True)
    assert train(config) == {}
    assert json.loads((config.output_dir / "metrics.json").read_text())["skipped_pairs"] == ["view_0", "view_2"]
    output = capsys.readouterr().out
    assert output.count("render_0.png of pair view_0 cannot be read") == 1
    assert "Skipped 2 pairs" in output


def test_accumulated_gradients_are_those_of_a_larger_batch(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config(output_dir=tmp_path / "large", batch_size=4))
    train(make_config(output_dir=tmp_path / "parts", batch_size=2, gradient_accumulation_steps=2))
    train(make_config(output_dir=tmp_path / "half", batch_size=2))
    large, parts, half = (saved_weights(tmp_path / name) for name in ("large", "parts", "half"))
    assert distance(large, parts) < 0.02 * distance(large, half)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda file: Image.new("1", (20_000, 20_000)).save(file), id="too large"),
        pytest.param(lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)), id="damaged header"),
    ],
)
def test_pictures_that_pillow_refuses_are_skipped_too(
    make_config: MakeConfig, pairs_json: Path, damage: Callable[[Path], None]
) -> None:
    damage(pairs_json.parent / "render_0.png")
    config = make_config(skip_bad=True)
    train(config)
    assert json.loads((config.output_dir / "metrics.json").read_text())["skipped_pairs"] == ["view_0"]


def test_pairs_that_were_skipped_before_an_interruption_are_listed(make_config: MakeConfig, pairs_json: Path) -> None:
    picture = pairs_json.parent / "render_0.png"
    content = picture.read_bytes()
    picture.write_bytes(b"no picture")
    train(make_config(steps=3, skip_bad=True))
    picture.write_bytes(content)
    config = make_config(steps=4, skip_bad=True)
    train(config)
    assert json.loads((config.output_dir / "metrics.json").read_text())["skipped_pairs"] == ["view_0"]


def test_fewer_steps_than_were_made_are_refused(make_config: MakeConfig) -> None:
    train(make_config(steps=3))
    with pytest.raises(DifixError, match=r"has already made 3 steps: give --steps 3 to save its network, more to"):
        train(make_config(steps=2))


def test_a_full_disk_keeps_the_last_checkpoint_and_is_told_in_one_sentence(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full(state: dict[str, Any], file: Path) -> None:
        if state["step"] > 1:
            file.write_bytes(b"half")
            raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    config = make_config(steps=2, steps_per_save=1)
    with pytest.raises(DifixError, match=r"checkpoint of step 2 cannot be written to .*failed.*: free some space, and"):
        train(config)
    assert [file.name for file in (config.output_dir / "training").glob("checkpoint*")] == ["checkpoint.pt"]
    monkeypatch.undo()
    train(config)


def test_an_output_folder_that_is_a_file_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DifixError, match=r"the output folder .*file cannot be created \(File exists\): choose another"):
        train(make_config(output_dir=tmp_path / "file"))


def test_a_file_in_the_place_of_the_checkpoints_folder_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "training").touch()
    with pytest.raises(DifixError, match=r"the output folder .*training cannot be created \(File exists\): choose"):
        train(make_config())


@pytest.mark.parametrize("name", ["learning_rate", "autoencoder_learning_rate", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_negative_and_infinite_rates_are_refused(make_config: MakeConfig, name: str, value: float) -> None:
    with pytest.raises(DifixError, match=f"{name} is {value}: it must be 0 or more"):
        train(make_config(**{name: value}))


@pytest.mark.parametrize(
    "name", ["batch_size", "gradient_accumulation_steps", "steps", "steps_per_save", "steps_per_validation"]
)
def test_a_number_below_one_is_refused(make_config: MakeConfig, name: str) -> None:
    with pytest.raises(DifixError, match=f"{name} is 0"):
        train(make_config(**{name: 0}))


def test_validation_measures_the_distance_on_vgg_under_its_own_name(make_config: MakeConfig, vgg_weights: Path) -> None:
    metrics = train(make_config(steps=1, loss=LossConfig(backbone="file", vgg_weights=vgg_weights)))
    assert metrics["vgg_perceptual_distance_nothing"] > 0
    assert "lpips_nothing" not in metrics


def test_a_checkpoint_of_another_network_is_refused(make_config: MakeConfig) -> None:
    train(make_config(steps=2))
    with pytest.raises(DifixError, match="another network"):
        train(make_config(base=None))


def test_a_loss_that_is_not_finite_stops_the_training(make_config: MakeConfig) -> None:
    with pytest.raises(DifixError, match=r"the loss is nan at step \d: lower the learning rate and repeat the command"):
        train(make_config(learning_rate=1e30, warmup_steps=0, steps_per_validation=1000))


def test_a_gradient_that_is_not_finite_stops_the_training(make_config: MakeConfig) -> None:
    with pytest.raises(DifixError, match="the norm of the gradient is inf at step 0"):
        train(make_config(loss=LossConfig(l2=1e37, backbone="none")))


def test_the_moving_average_follows_slowly_and_swaps_back(make_config: MakeConfig) -> None:
    pipeline = start_network(make_config())
    trainable_parameters(pipeline, "all")
    average = WeightAverage(pipeline, decay=0.75)
    average.num_updates = 1000  # past the first updates, which follow faster
    name, weight = next(iter(network_weights(pipeline).items()))
    with torch.no_grad():
        old = weight.clone()
        weight.add_(1.0)
        new = weight.clone()
    average.update(pipeline)
    torch.testing.assert_close(average.weights[name], 0.75 * old + 0.25 * new)
    with average.applied(pipeline):
        torch.testing.assert_close(weight, 0.75 * old + 0.25 * new)
    assert torch.equal(weight, new)


def test_the_learning_rate_rises_and_then_falls_as_a_cosine(make_config: MakeConfig) -> None:
    config = make_config(schedule="cosine", warmup_steps=10, steps=100)
    factors = [learning_rate_factor(step, config) for step in range(100)]
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[50] == pytest.approx(0.5)
    assert factors[-1] == pytest.approx(0.01)


def test_sd_turbo_gets_skips_with_almost_no_effect_and_a_prompt_embedding(
    make_config: MakeConfig, tiny_sd_turbo: Path
) -> None:
    pipeline = start_network(make_config(base=str(tiny_sd_turbo)))
    vae: Any = AutoencoderKL.from_pretrained(tiny_sd_turbo / "vae")
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(
            pipeline.vae.decode_with_skips(
                *[x.mode() if i == 0 else x for i, x in enumerate(pipeline.vae.encode_with_skips(image))]
            ),
            vae.decode(vae.encode(image).latent_dist.mode()).sample,
            atol=1e-3,
            rtol=0,
        )
    assert float(pipeline.scheduler.alphas_cumprod[199]) == pytest.approx(0.755238, abs=1e-5)
    assert pipeline.prompt_embedding.shape == (1, 8, 8)
    assert float(pipeline.prompt_embedding.abs().sum()) > 0


def test_the_autoencoder_can_learn_more_slowly(make_config: MakeConfig, tmp_path: Path) -> None:
    options = {"steps": 1, "warmup_steps": 1, "ema_decay": 0.0, "weight_decay": 0.0, "train_parts": "all"}
    moved = {}
    for name, rate in (("alike", None), ("slowly", 1e-6)):
        config = make_config(output_dir=tmp_path / name, autoencoder_learning_rate=rate, **options)
        train(config)
        torch.manual_seed(config.seed)
        start = network_weights(start_network(config))
        trained = saved_weights(config.output_dir)
        for part in ("vae", "unet"):
            changes = [
                (trained[key] - value.detach()).abs().max()
                for key, value in start.items()
                if key.startswith(f"{part}.")
            ]
            moved[name, part] = float(torch.stack(changes).max())
    assert moved["slowly", "unet"] == pytest.approx(moved["alike", "unet"], rel=1e-3)
    assert moved["slowly", "vae"] < 0.01 * moved["alike", "vae"]
