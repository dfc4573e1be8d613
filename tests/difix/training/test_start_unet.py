"""The initial UNet of a small network predicts zero, and its first attention compares the views at each position."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from difix.tiny_network import make_tiny
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.difix.architecture import DifixArchitecture, build_unet
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.start_unet import CONSTANTS, start_unet
from difix3d_ns.difix.unet import mix_references, predict_noise


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    network = mix_references(build_unet(DifixArchitecture.mini()))
    start_unet(network)
    return network


def compared(unet: Any, latents: Float[Tensor, "batch views latent h w"]) -> Float[Tensor, "half h w"]:
    """The second half of the target's channels after the first attention, which holds the comparison."""
    seen: list[Tensor] = []
    hook = unet.down_blocks[0].attentions[0].register_forward_hook(lambda _, __, output: seen.append(output[0]))
    with torch.no_grad():
        predict_noise(unet, latents, 199, torch.zeros(1, 1, unet.config["cross_attention_dim"]), by_places=True)
    hook.remove()
    return seen[0][0, unet.conv_in.out_channels // 2 :]


def test_the_estimate_starts_at_zero(unet: UNet2DConditionModel) -> None:
    with torch.no_grad():
        noise = predict_noise(unet, torch.randn(1, 2, 7, 6, 8), 199, torch.zeros(1, 1, 8), by_places=True)
    assert not noise.any()


def test_a_patch_of_another_colour_in_the_reference_is_found_at_its_position(
    unet: UNet2DConditionModel,
) -> None:
    target = torch.full((7, 12, 16), 0.2)
    reference = target.clone()
    reference[:3, 2:5, 9:12] += 0.6
    same = compared(unet, torch.stack([target, target])[None])
    other = compared(unet, torch.stack([target, reference])[None])
    found = (other - same).square().sum(dim=0).sqrt()
    row, column = divmod(int(found.argmax()), 16)
    assert 2 <= row <= 4 and 9 <= column <= 11
    assert float(found[3, 10]) > 20 * float(found[9, 3])


def test_the_comparison_is_proportional_to_the_colour_difference(unet: UNet2DConditionModel) -> None:
    target = torch.rand(7, 12, 16) * 0.5
    same = compared(unet, torch.stack([target, target])[None])
    sizes = []
    for shift in (0.1, 0.2, 0.4):
        reference = target.clone()
        reference[:3] += shift
        sizes.append(float((compared(unet, torch.stack([target, reference])[None]) - same).square().mean().sqrt()))
    assert sizes[1] / sizes[0] == pytest.approx(2, rel=0.15)
    assert sizes[2] / sizes[0] == pytest.approx(4, rel=0.25)


def test_the_layers_after_the_first_attention_ignore_the_constants(unet: Any) -> None:
    torch.manual_seed(0)
    unet = copy.deepcopy(unet)
    torch.nn.init.normal_(unet.conv_out.weight)
    latents, prompt = torch.randn(1, 2, 7, 6, 8), torch.zeros(1, 1, 8)
    shift = torch.zeros(unet.conv_in.out_channels, 1, 1)
    shift[list(CONSTANTS)] = torch.tensor([1.0, -1.0])[:, None, None]
    with torch.no_grad():
        plain = predict_noise(unet, latents, 199, prompt, by_places=True)
        unet.down_blocks[0].downsamplers[0].register_forward_pre_hook(lambda _, inputs: (inputs[0] + shift,))
        for resnet in unet.up_blocks[-1].resnets:
            behind = torch.zeros(resnet.in_channels, 1, 1)
            behind[-len(shift) :] = shift
            resnet.register_forward_pre_hook(lambda _, inputs, behind=behind: (inputs[0] + behind, *inputs[1:]))
        shifted = predict_noise(unet, latents, 199, prompt, by_places=True)
    assert float(plain.std()) > 0.1
    torch.testing.assert_close(shifted, plain, atol=1e-3, rtol=0)


def test_an_unsuitable_unet_is_refused() -> None:
    with pytest.raises(DifixError, match="one group"):
        start_unet(make_tiny().unet)
