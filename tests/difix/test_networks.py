"""The skips of the autoencoder, the view mixing of the UNet, and their sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from difix.tiny_network import TINY, make_tiny

from difix3d_ns.difix.architecture import DifixArchitecture, build_difix, build_unet, build_vae
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.unet import predict_noise, rotations
from difix3d_ns.difix.vae import SKIP_INIT_SCALE, SkipAutoencoderKL


def num_parameters(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_mini_network_stays_below_its_size_limit() -> None:
    with torch.device("meta"):
        vae, unet = build_vae(DifixArchitecture.mini()), build_unet(DifixArchitecture.mini())
    assert num_parameters(vae, unet) <= 3_000_000


def test_only_attention_by_places_notices_that_tokens_moved() -> None:
    torch.manual_seed(0)
    tiny = make_tiny()
    size = tiny.unet.config["block_out_channels"][0]
    attention: Any = next(m for n, m in tiny.unet.named_modules() if n.endswith("attn1"))
    tokens = torch.randn(2, 48, size)
    flipped = tokens.clone()
    # Flipping the reference moves its tokens, but as a set they remain the same.
    flipped[1] = tokens[1].unflatten(0, (6, 8)).flip(1).flatten(0, 1)
    with torch.no_grad():
        for latent_size, notices in ((None, False), ((6, 8), True)):
            before = attention(tokens, num_views=2, latent_size=latent_size)[0]
            after = attention(flipped, num_views=2, latent_size=latent_size)[0]
            assert torch.allclose(before, after, atol=1e-5) != notices


def test_only_tokens_at_the_same_position_have_the_same_rotation() -> None:
    cosines, sines = rotations(3, 4, 8, num_views=2, device=torch.device("cpu"))
    assert cosines.shape == sines.shape == (24, 8)
    torch.testing.assert_close(cosines[:12], cosines[12:])
    assert len(torch.stack([cosines, sines], dim=1)[:12].unique(dim=0)) == 12


def test_attention_by_places_is_saved_with_a_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_difix(replace(TINY, attention_by_places=True))
    image, reference = torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48)
    expected = network(image, reference, output_type="pt").images
    network.save_pretrained(tmp_path)
    loaded = DifixPipeline.from_pretrained(tmp_path)
    assert loaded.config["attention_by_places"]
    torch.testing.assert_close(loaded(image, reference, output_type="pt").images, expected)
    loaded.register_to_config(attention_by_places=False)
    assert not torch.allclose(loaded(image, reference, output_type="pt").images, expected, atol=1e-6)
    assert not make_tiny().config["attention_by_places"]


def test_new_skips_start_at_the_published_value() -> None:
    vae = SkipAutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
    assert vae.decoder.get_parameter("skip_conv_1.weight").unique().tolist() == [torch.tensor(SKIP_INIT_SCALE).item()]


def test_decoding_without_skips_equals_the_stock_autoencoder() -> None:
    tiny = make_tiny()
    latents, skips = tiny.encode(torch.rand(1, 1, 3, 16, 16))
    stock = tiny.vae.decode(latents[:, 0]).sample
    assert not torch.allclose(tiny.vae.decode_with_skips(latents[:, 0], skips), stock, atol=1e-3)
    tiny.vae.register_to_config(ignore_skip=True)
    torch.testing.assert_close(tiny.vae.decode_with_skips(latents[:, 0], skips), stock)


def test_encoding_with_skips_gives_the_stock_posterior(tiny: DifixPipeline) -> None:
    images = torch.rand(2, 3, 16, 24)
    posterior, skips = tiny.vae.encode_with_skips(images)
    torch.testing.assert_close(posterior.mode(), tiny.vae.encode(images).latent_dist.mode())
    assert [tuple(skip.shape[1:]) for skip in skips] == [(8, 16, 24), (8, 8, 12), (8, 4, 6), (16, 2, 3)]


def test_gamma_scales_the_skips() -> None:
    tiny = make_tiny()
    latents, skips = tiny.encode(torch.rand(1, 1, 3, 16, 16))
    halved = tiny.vae.decode_with_skips(latents[:, 0], [skip / 2 for skip in skips])
    tiny.vae.register_to_config(gamma=0.5)
    torch.testing.assert_close(tiny.vae.decode_with_skips(latents[:, 0], skips), halved)


def test_any_number_of_levels_and_any_attention_can_be_built() -> None:
    architecture = DifixArchitecture(
        vae_block_out_channels=(4, 8),
        vae_norm_num_groups=2,
        unet_block_out_channels=(8, 8, 16),
        unet_attention_levels=(False, True, False),
        unet_norm_num_groups=4,
        unet_num_heads=(1, 2, 2),
        cross_attention_dim=4,
    )
    vae, unet = build_vae(architecture), build_unet(architecture)
    assert vae.downscale_factor == 2
    assert {name.split(".attentions")[0] for name in unet.attn_processors} == {
        "down_blocks.1",
        "mid_block",
        "up_blocks.1",
    }


def test_gradient_checkpointing_does_not_change_gradients() -> None:
    tiny = make_tiny()
    vae, latents = tiny.vae, torch.randn(1, 4, 2, 2)
    skips = [skip.detach() for skip in vae.encode_with_skips(torch.rand(1, 3, 16, 16))[1]]

    def gradient() -> torch.Tensor:
        vae.zero_grad()
        vae.decode_with_skips(latents, skips).square().mean().backward()
        return vae.decoder.get_parameter("conv_in.weight").grad.clone()

    plain = gradient()
    vae.enable_gradient_checkpointing()
    assert vae.decoder.gradient_checkpointing
    torch.testing.assert_close(gradient(), plain)


@torch.no_grad()
def test_offloaded_weights_are_loaded_before_encoding_and_before_decoding() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    vae, images = make_tiny().vae, torch.rand(1, 3, 16, 16)
    weights = {name: value.clone() for name, value in vae.state_dict().items()}
    posterior, skips = vae.encode_with_skips(images)
    latents = posterior.mode()
    decoded = vae.decode_with_skips(latents, skips)

    class Loader(ModelHook):
        """Brings the weights in, as an offloading hook does."""

        def pre_forward(self, module, *args, **kwargs):
            module.load_state_dict(weights)
            return args, kwargs

    def unload() -> None:
        for parameter in vae.parameters():
            parameter.fill_(torch.nan)

    add_hook_to_module(vae, Loader())
    unload()
    assert torch.equal(vae.encode_with_skips(images)[0].mode(), latents)
    unload()
    assert torch.equal(vae.decode_with_skips(latents, skips), decoded)


def test_with_one_view_the_unet_equals_the_stock_unet(tiny: DifixPipeline) -> None:
    latents = torch.randn(2, 4, 4, 6)
    stock = UNet2DConditionModel.from_config(tiny.unet.config)
    stock.load_state_dict(tiny.unet.state_dict())
    expected = stock(latents, 199, tiny.prompt_embedding.expand(2, -1, -1)).sample
    result = predict_noise(tiny.unet, latents[:, None], 199, tiny.prompt_embedding)
    torch.testing.assert_close(result[:, 0], expected)


def test_self_attention_runs_over_the_tokens_of_all_views(tiny: DifixPipeline) -> None:
    layer = tiny.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1")
    tokens = torch.randn(2 * 3, 5, 32)  # two images of three views
    joined = tokens.reshape(2, 15, 32)  # one view each, which has the stock attention
    expected = layer(joined, num_views=1).reshape(6, 5, 32)
    torch.testing.assert_close(layer(tokens, num_views=3), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(layer(tokens, num_views=1), expected, atol=1e-2)


def test_cross_attention_does_not_mix_views(tiny: DifixPipeline) -> None:
    layer = tiny.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    tokens, prompt = torch.randn(4, 5, 32), torch.randn(4, 3, 8)
    assert torch.equal(layer(tokens, prompt, num_views=2), layer(tokens, prompt, num_views=1))


@torch.no_grad()
def test_each_self_attention_of_the_unet_mixes_views_even_if_no_other_does() -> None:
    tiny = make_tiny()
    layers = [module for name, module in tiny.unet.named_modules() if name.endswith("attn1")]
    assert len(layers) == 3 * 1 + 1 + 3 * 2  # on the way down, in the middle, on the way up
    latents = torch.randn(1, 2, 4, 8, 8)
    with_another_reference = torch.stack([latents[:, 0], torch.randn(1, 4, 8, 8)], dim=1)

    def noise_of_target(views: torch.Tensor, mixing: torch.nn.Module | None) -> torch.Tensor:
        hooks = [
            layer.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
            for layer in layers
            if layer is not mixing
        ]
        noise = predict_noise(tiny.unet, views, 199, tiny.prompt_embedding)[:, 0]
        for hook in hooks:
            hook.remove()
        return noise

    assert torch.allclose(noise_of_target(latents, None), noise_of_target(with_another_reference, None), atol=1e-6)
    for layer in layers:
        change = noise_of_target(latents, layer) - noise_of_target(with_another_reference, layer)
        assert change.abs().max() > 1e-4
