"""The autoencoder's skips, the UNet's view mixing, and their sizes."""

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


def test_attention_by_places_tells_a_moved_token_from_one_that_stayed() -> None:
    torch.manual_seed(0)
    tiny = make_tiny()
    size = tiny.unet.config["block_out_channels"][0]
    attention: Any = next(m for n, m in tiny.unet.named_modules() if n.endswith("attn1"))
    tokens = torch.randn(2, 48, size)
    flipped = tokens.clone()
    # As a set, the tokens of the reference are the same when they change places.
    flipped[1] = tokens[1].unflatten(0, (6, 8)).flip(1).flatten(0, 1)
    with torch.no_grad():
        for latent_size, tells in ((None, False), ((6, 8), True)):
            before = attention(tokens, num_views=2, latent_size=latent_size)[0]
            after = attention(flipped, num_views=2, latent_size=latent_size)[0]
            assert torch.allclose(before, after, atol=1e-5) != tells


def test_tokens_at_the_same_place_of_two_views_are_rotated_alike_and_others_are_not() -> None:
    cosines, sines = rotations(3, 4, 8, num_views=2, device=torch.device("cpu"))
    assert cosines.shape == sines.shape == (24, 8)
    torch.testing.assert_close(cosines[:12], cosines[12:])
    assert len(torch.stack([cosines, sines], dim=1)[:12].unique(dim=0)) == 12


def test_a_network_is_saved_with_whether_its_attention_knows_places(tmp_path: Path) -> None:
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


def test_decoding_without_skips_is_the_stock_autoencoder() -> None:
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


def test_any_number_of_levels_and_any_attention_works() -> None:
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


def test_gradient_checkpointing_of_the_decoder_changes_no_gradient() -> None:
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


def test_offloading_hooks_run_at_the_autoencoders_own_entry_points() -> None:
    tiny = make_tiny()
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Counter(ModelHook):
        calls = 0

        def pre_forward(self, module, *args, **kwargs):
            self.calls += 1
            return args, kwargs

    counter = Counter()
    add_hook_to_module(tiny.vae, counter)
    tiny.denoise(torch.zeros(1, 2, 3, 16, 16))
    assert counter.calls == 3  # target encoded, reference encoded, target decoded


def test_one_view_is_the_stock_unet(tiny: DifixPipeline) -> None:
    latents = torch.randn(2, 4, 4, 6)
    stock = UNet2DConditionModel.from_config(tiny.unet.config)
    stock.load_state_dict(tiny.unet.state_dict())
    expected = stock(latents, 199, tiny.prompt_embedding.expand(2, -1, -1)).sample
    result = predict_noise(tiny.unet, latents[:, None], 199, tiny.prompt_embedding)
    torch.testing.assert_close(result[:, 0], expected)


def test_self_attention_runs_over_the_tokens_of_all_views(tiny: DifixPipeline) -> None:
    layer = tiny.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1")
    tokens = torch.randn(2 * 3, 5, 32)  # two images of three views
    result = layer(tokens, num_views=3)
    for image in range(2):
        joined = tokens[3 * image : 3 * image + 3].reshape(1, 15, 32)
        query, key, value = (
            project(joined).reshape(15, 4, 8).transpose(0, 1) for project in (layer.to_q, layer.to_k, layer.to_v)
        )
        weights = (query @ key.transpose(1, 2) / 8**0.5).softmax(-1)
        expected = layer.to_out[0]((weights @ value).transpose(0, 1).reshape(3, 5, 32))
        torch.testing.assert_close(result[3 * image : 3 * image + 3], expected, atol=1e-5, rtol=1e-4)


def test_cross_attention_stays_with_its_view(tiny: DifixPipeline) -> None:
    layer = tiny.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    tokens, prompt = torch.randn(4, 5, 32), torch.randn(4, 3, 8)
    assert torch.equal(layer(tokens, prompt, num_views=2), layer(tokens, prompt, num_views=1))


def test_every_self_attention_of_the_unet_mixes() -> None:
    tiny = make_tiny()
    seen: dict[str, int] = {}
    for name, module in tiny.unet.named_modules():
        if name.endswith("attn1"):
            module.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: seen.update({name: kwargs["num_views"]}), with_kwargs=True
            )
    predict_noise(tiny.unet, torch.randn(1, 2, 4, 4, 4), 199, tiny.prompt_embedding)
    assert seen == dict.fromkeys((n for n, _ in tiny.unet.named_modules() if n.endswith("attn1")), 2)
    assert len(seen) == 3 * 1 + 1 + 3 * 2  # on the way down, in the middle, on the way up
