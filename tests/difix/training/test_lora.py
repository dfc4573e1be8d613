"""The decoder's LoRA: which layers have it, that it starts at zero, and that it can be merged into the weights."""

from __future__ import annotations

import pytest
import torch
from difix.tiny_network import make_tiny

from difix3d_ns.difix.architecture import DifixArchitecture, build_vae
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.lora import add_lora, fold_lora
from difix3d_ns.difix.training.networks import trainable_parameters

IMAGES = torch.rand(1, 2, 3, 24, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_the_published_networks_decoder_has_lora_at_its_43_published_layers() -> None:
    with torch.device("meta"):
        decoder = build_vae(DifixArchitecture.sd_turbo()).decoder
        layers = add_lora(decoder, rank=4)
    mid = [f"mid_block.resnets.{i}.conv{j}" for i in range(2) for j in (1, 2)]
    mid += [f"mid_block.attentions.0.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
    up = [f"up_blocks.{i}.resnets.{j}.conv{k}" for i in range(4) for j in range(3) for k in (1, 2)]
    up += [f"up_blocks.{i}.resnets.0.conv_shortcut" for i in (2, 3)]
    up += [f"up_blocks.{i}.upsamplers.0.conv" for i in range(3)]
    assert layers == sorted(["conv_in", "conv_out", *mid, *up, *(f"skip_conv_{i}" for i in range(1, 5))])
    assert len(layers) == 43
    shapes = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
    assert shapes["conv_in.lora_A.vae_skip.weight"] == (4, 4, 3, 3)
    assert shapes["conv_in.lora_B.vae_skip.weight"] == (512, 4, 1, 1)
    assert shapes["mid_block.attentions.0.to_out.0.lora_A.vae_skip.weight"] == (4, 512)
    assert shapes["skip_conv_1.base_layer.weight"] == (512, 512, 1, 1)


def test_a_new_lora_changes_nothing_and_a_trained_one_can_be_merged() -> None:
    pipeline = make_tiny()
    names = set(pipeline.vae.state_dict())
    with torch.no_grad():
        before = pipeline.denoise(IMAGES)
        parameters = trainable_parameters(pipeline, "published", lora_rank=3)
        torch.testing.assert_close(pipeline.denoise(IMAGES), before)
        for parameter in parameters:
            parameter.add_(0.05 * torch.randn_like(parameter))
        trained = pipeline.denoise(IMAGES)
        assert float((trained - before).abs().max()) > 0.05
        fold_lora(pipeline.vae)
        torch.testing.assert_close(pipeline.denoise(IMAGES), trained, atol=1e-4, rtol=1e-4)
    assert set(pipeline.vae.state_dict()) == names


def test_large_images_can_be_cleaned_with_a_separate_lora() -> None:
    pipeline = make_tiny()
    trainable_parameters(pipeline, "published")
    image = IMAGES[:, 0] / 2 + 0.5
    whole, tiled = (pipeline(image, output_type="pt", max_pixels_per_batch=bound).images for bound in (10_000, 1))
    assert (whole - tiled).abs().max() < 1e-5


def test_only_lora_and_skip_convolutions_of_the_autoencoder_are_trained() -> None:
    pipeline = make_tiny()
    trainable_parameters(pipeline, "published")
    trained = {name for name, parameter in pipeline.vae.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in pipeline.vae.state_dict() if "lora_" in name or "skip_conv" in name}
    assert "decoder.skip_conv_4.base_layer.weight" in trained
    assert all(parameter.requires_grad for parameter in pipeline.unet.parameters())
    pipeline.denoise(IMAGES).square().mean().backward()
    frozen = [name for name, parameter in pipeline.vae.named_parameters() if parameter.grad is None]
    assert trained.isdisjoint(frozen)


def test_a_lora_of_rank_zero_is_refused() -> None:
    with pytest.raises(DifixError, match="rank is 0"):
        add_lora(make_tiny().vae.decoder, rank=0)
