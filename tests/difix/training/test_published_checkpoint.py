"""The `.pkl` in the authors' layout loads as the trained network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.train import train
from difix3d_ns.difix.training.train_options import TrainConfig

IMAGE = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(5))


def output(pipeline: DifixPipeline) -> torch.Tensor:
    return pipeline(IMAGE, IMAGE.flip(-1), output_type="pt").images


@pytest.mark.parametrize("base", ["tiny_base", "tiny_sd_turbo", "unmerged_folder"])
def test_the_checkpoint_with_its_base_equals_the_saved_network(
    base: str, make_config: Callable[..., TrainConfig], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(base)
    config = make_config(base=str(folder), train_parts=None, save_pkl=True, learning_rate=1e-2)
    train(config)
    checkpoint = config.output_dir / "model.pkl"
    saved, loaded = (
        output(DifixPipeline.from_pretrained(config.output_dir)),
        output(DifixPipeline.from_pretrained(checkpoint, base=folder)),
    )
    torch.testing.assert_close(loaded, saved, atol=1e-5, rtol=0)

    content = torch.load(checkpoint, weights_only=True)
    assert set(content) == {
        "vae_lora_target_modules",
        "rank_vae",
        "state_dict_unet",
        "state_dict_vae",
        "optimizer",
    }
    assert content["rank_vae"] == 4
    assert "decoder.mid_block.attentions.0.to_out.0" in content["vae_lora_target_modules"]
    assert all("lora" in name or "skip" in name for name in content["state_dict_vae"])
    assert content["optimizer"]["state"]
    # The LoRA was trained: without it the output differs.
    for name, value in content["state_dict_vae"].items():
        if "lora_B" in name:
            value.zero_()
    torch.save(content, checkpoint)
    assert float((output(DifixPipeline.from_pretrained(checkpoint, base=folder)) - saved).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"base": None}, "give --base"), ({"train_parts": "all"}, "is all"), ({"train_parts": "decoder"}, "is decoder")],
)
def test_a_checkpoint_that_cannot_hold_the_result_is_refused_before_training(
    make_config: Callable[..., TrainConfig], changes: dict[str, str | None], message: str
) -> None:
    config = make_config(**{"save_pkl": True, "train_parts": "published", **changes})
    with pytest.raises(DifixError, match=message):
        train(config)
    assert not config.output_dir.exists()
