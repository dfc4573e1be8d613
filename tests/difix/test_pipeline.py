"""Images in, cleaned images out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from difix.tiny_network import make_tiny
from PIL import Image

from difix3d_ns.difix.architecture import DifixArchitecture
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import TIMESTEP, DifixPipeline
from difix3d_ns.difix.unet import mix_references


def pictures(count: int, height: int = 24, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_one_image_gives_the_same_bits_twice(tiny: DifixPipeline) -> None:
    image, reference = pictures(1), pictures(1, seed=1)
    first, second = (tiny(image, reference, output_type="pt").images for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == image.shape and first.min() >= 0 and first.max() <= 1


def test_a_sampled_posterior_follows_its_generator(tiny: DifixPipeline) -> None:
    def sampled(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return tiny(pictures(1), output_type="pt", sample_posterior=True, generator=generator).images

    assert torch.equal(sampled(1), sampled(1))
    assert not torch.equal(sampled(1), sampled(2))


def test_the_reference_matters_and_only_the_own_one(tiny: DifixPipeline) -> None:
    images, references = pictures(3), pictures(3, seed=1)
    together = tiny(images, references, output_type="pt").images
    alone = torch.cat([tiny(images[i : i + 1], references[i : i + 1], output_type="pt").images for i in range(3)])
    assert (together - alone).abs().max() < 1e-5
    assert (together - tiny(images, references.roll(1, 0), output_type="pt").images).abs().max() > 1e-4
    assert (together - tiny(images, output_type="pt").images).abs().max() > 1e-4


def test_a_target_taken_as_its_own_reference_is_mixing_of_equal_views(tiny: DifixPipeline) -> None:
    # Attention over a view and its copy is attention over the view: the softmax halves over twice the tokens.
    image = pictures(1)
    assert (tiny(image, image, output_type="pt").images - tiny(image, output_type="pt").images).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(24, 32), (25, 31), (64, 9), (3, 5), (1, 1)])
def test_the_output_has_exactly_the_inputs_size(tiny: DifixPipeline, size: tuple[int, int]) -> None:
    image = pictures(1, *size)
    assert tiny(image, pictures(1, 40, 20), output_type="pt").images.shape == image.shape


def test_padding_changes_nothing_where_there_is_none_to_do(tiny: DifixPipeline) -> None:
    image = pictures(1)
    with torch.no_grad():
        direct = (tiny.denoise(image[:, None] * 2 - 1) / 2 + 0.5).clamp(0, 1)
    assert torch.equal(tiny(image, output_type="pt").images, direct)


def test_small_batches_give_what_one_batch_gives(tiny: DifixPipeline) -> None:
    images = pictures(5)
    whole = tiny(images, output_type="pt").images
    bounded = tiny(images, output_type="pt", max_pixels_per_batch=2 * 24 * 32).images
    assert (whole - bounded).abs().max() < 1e-5


def test_a_network_size_may_be_given(tiny: DifixPipeline) -> None:
    image = pictures(1, 24, 32)
    resized = tiny(image, output_type="pt", height=16, width=16).images
    assert resized.shape == image.shape
    assert not torch.equal(resized, tiny(image, output_type="pt").images)


def test_strength_blends_between_input_and_result(tiny: DifixPipeline) -> None:
    image = pictures(1)
    full, half, none = (tiny(image, output_type="pt", strength=s).images for s in (1.0, 0.5, 0.0))
    assert torch.equal(none, image)
    assert torch.allclose(half, (full + image) / 2, atol=1e-6)


def test_the_forms_of_input_and_output_agree(tiny: DifixPipeline) -> None:
    array = (pictures(1)[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    expected = tiny(tensor, output_type="pt").images
    for form in (Image.fromarray(array), [Image.fromarray(array)], array, [tensor], tensor[None]):
        assert torch.equal(tiny(form, output_type="pt").images, expected)
    assert np.allclose(tiny(tensor, output_type="np").images[0], expected[0].permute(1, 2, 0).numpy())
    (picture,) = tiny(tensor, output_type="pil").images
    assert np.abs(np.asarray(picture) / 255 - expected[0].permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6


def test_a_list_of_several_sizes_keeps_its_order(tiny: DifixPipeline) -> None:
    sizes = [(24, 32), (32, 24), (24, 32)]
    images = [pictures(1, *size, seed=i)[0] for i, size in enumerate(sizes)]
    mixed = tiny(images, output_type="pt").images
    for image, result in zip(images, mixed, strict=True):
        assert (result - tiny(image, output_type="pt").images[0]).abs().max() < 1e-5


def test_gray_alpha_and_16_bit_pictures_become_rgb(tiny: DifixPipeline) -> None:
    gray = Image.fromarray(np.full((24, 32), 100, np.uint8))
    deep = Image.fromarray(np.full((24, 32), 100 * 257, np.uint16))
    rgba = Image.fromarray(np.full((24, 32, 4), (100, 100, 100, 255), np.uint8))
    results = [tiny(image, output_type="pt").images for image in (gray, deep, rgba, gray.convert("RGB"))]
    for result in results[:3]:
        assert torch.allclose(result, results[3], atol=1e-5)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (torch.full((1, 3, 8, 8), float("nan")), "NaN"),
        (torch.zeros(1, 4, 8, 8), "three channels"),
        (torch.zeros(1, 1, 8, 8), "three channels"),
        (torch.zeros(1, 3, 0, 8), "no pixels"),
        (torch.full((1, 3, 8, 8), 255.0), r"\[0, 1\]"),
        (["image.png"], "str"),
        ([], "no image is given"),
        (Image.new("RGB", (0, 8)), "no pixels"),
        (np.zeros((8, 8, 4), np.uint8), "three channels"),
        (np.full((8, 8, 3), 200, np.int64), "an array of int64: convert it to uint8"),
    ],
)
def test_what_is_no_picture_is_said(tiny: DifixPipeline, image: object, sentence: str) -> None:
    with pytest.raises(DifixError, match=sentence):
        tiny(image)


def test_references_must_match_in_number(tiny: DifixPipeline) -> None:
    with pytest.raises(DifixError, match="3 images but 2 references"):
        tiny(pictures(3), pictures(2))


def test_a_network_that_returns_nan_is_found_out() -> None:
    broken = make_tiny()
    with torch.no_grad():
        broken.vae.decoder.conv_out.weight.fill_(float("nan"))
    with pytest.raises(DifixError, match="returned NaN"):
        broken(pictures(1))


def test_a_network_that_returns_black_is_found_out() -> None:
    broken = make_tiny()
    with torch.no_grad():
        broken.vae.decoder.conv_out.weight.zero_()
        broken.vae.decoder.conv_out.bias.fill_(-100.0)
    with pytest.raises(DifixError, match="black image"):
        broken(pictures(1))


def test_the_one_step_is_the_schedulers(tiny: DifixPipeline) -> None:
    latents, noise = torch.randn(2, 4, 3, 4), torch.randn(2, 4, 3, 4)
    tiny.scheduler.set_timesteps(timesteps=[TIMESTEP])
    expected = tiny.scheduler.step(noise, TIMESTEP, latents).prev_sample
    assert torch.allclose(tiny.clean_latents(latents, noise, TIMESTEP), expected, atol=1e-5)
    assert float(tiny.scheduler.alphas_cumprod[TIMESTEP]) == pytest.approx(0.755238, abs=1e-6)


def test_the_full_size_has_the_published_parameters() -> None:
    from difix3d_ns.difix.architecture import build_difix

    with torch.device("meta"):
        pipeline = build_difix(DifixArchitecture.sd_turbo())
    unet, vae = pipeline.unet.state_dict(), pipeline.vae.state_dict()
    assert len(unet) == 686
    assert sum(value.numel() for value in unet.values()) == 865_910_724
    assert len(vae) == 248 + 4
    shapes = [tuple(vae[f"decoder.skip_conv_{level}.weight"].shape[:2]) for level in range(1, 5)]
    assert shapes == [(512, 512), (512, 256), (512, 128), (256, 128)]


def test_a_missing_reference_is_told_once_to_a_network_that_expects_one(
    caplog: pytest.LogCaptureFixture, our_folder: Path
) -> None:
    index = our_folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"trained_with_reference": True}))
    network = DifixPipeline.from_pretrained(our_folder)
    network(pictures(1), pictures(1, seed=1))
    assert not caplog.messages
    network(pictures(1))
    network(pictures(1))
    (message,) = caplog.messages
    assert "trained with reference photos and gets none" in message


@pytest.mark.parametrize(
    ("dtype", "moves", "capability", "expected"),
    [
        (None, [("cuda",)], (8, 0), torch.bfloat16),
        (None, [(torch.device("cuda", 1),)], (9, 0), torch.bfloat16),
        (None, [("cuda",)], (7, 5), torch.float32),  # it would emulate bfloat16
        (None, [("cpu",)], (8, 0), torch.float32),
        (None, [("cuda", torch.float32)], (8, 0), torch.float32),
        (None, [(torch.float16,), ("cuda",)], (8, 0), torch.float32),  # as below the move itself is left out
        (torch.float32, [("cuda",)], (8, 0), torch.float32),
    ],
)
def test_a_gpu_means_bfloat16_if_it_computes_with_it_and_no_number_format_is_given(
    our_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype | None,
    moves: list,
    capability: tuple[int, int],
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    network = DifixPipeline.from_pretrained(our_folder, torch_dtype=dtype)
    seen: list[tuple] = []
    monkeypatch.setattr(DiffusionPipeline, "to", lambda self, *args: seen.append(args) or self)
    for move in moves:
        assert network.to(*move) is network
    assert seen == moves
    assert {part.dtype for part in (network.vae, network.unet)} == {expected}


def slice_attention(network: DifixPipeline) -> None:
    network.enable_attention_slicing()


def slice_attention_to_the_most(network: DifixPipeline) -> None:
    network.enable_attention_slicing("max")


def use_xformers(network: DifixPipeline) -> None:
    network.enable_xformers_memory_efficient_attention()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (slice_attention, "attention cannot be sliced.*lower max_pixels_per_batch"),
        (slice_attention_to_the_most, "attention cannot be sliced.*lower max_pixels_per_batch"),
        (use_xformers, "xformers cannot replace the attention"),
    ],
)
def test_switches_that_would_replace_the_attention_are_refused_and_references_still_matter(
    tiny: DifixPipeline, change: Callable[[DifixPipeline], None], sentence: str
) -> None:
    expected = tiny(pictures(1), pictures(1, seed=1), output_type="pt").images
    network = make_tiny()
    with pytest.raises(DifixError, match=sentence):
        change(network)
    assert torch.equal(network(pictures(1), pictures(1, seed=1), output_type="pt").images, expected)


@pytest.mark.parametrize(
    "replace",
    [
        lambda unet: unet.fuse_qkv_projections(),
        lambda unet: unet.set_attn_processor(AttnProcessor2_0()),
        lambda unet: unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(AttnProcessor2_0()),
    ],
    ids=["fused", "stock", "one layer"],
)
@pytest.mark.parametrize("reference", [None, pictures(1, seed=1)], ids=["alone", "with reference"])
def test_attention_that_was_replaced_is_told_instead_of_ignoring_references(
    tiny: DifixPipeline, replace: Callable[[Any], None], reference: torch.Tensor | None
) -> None:
    network = make_tiny()
    replace(network.unet)
    with pytest.raises(DifixError, match="attention was replaced and no longer mixes references"):
        network(pictures(1), reference)
    mix_references(network.unet)
    expected = tiny(pictures(1), reference, output_type="pt").images
    assert torch.equal(network(pictures(1), reference, output_type="pt").images, expected)


@pytest.mark.parametrize("options", [{"variant": "fp16"}, {"max_shard_size": "1KB"}])
def test_files_of_other_names_which_could_not_be_loaded_again_are_not_written(
    tiny: DifixPipeline, tmp_path: Path, options: dict[str, str]
) -> None:
    with pytest.raises(DifixError, match=f"save_pretrained takes no {next(iter(options))} here"):
        tiny.save_pretrained(tmp_path / "saved", **options)
    assert not (tmp_path / "saved").exists()


def test_large_pictures_are_normalised_precisely_on_the_cpu() -> None:
    network = make_tiny()
    norm = network.vae.encoder.get_submodule("down_blocks.0.resnets.0.norm1")
    assert network.vae.encoder.conv_in(pictures(1)).is_contiguous()
    sample = 3 + 0.2 * torch.randn(1, 8, 600, 600, generator=torch.Generator().manual_seed(0))
    exact = torch.nn.functional.group_norm(sample.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    assert (norm(sample) - exact).abs().max() < 1e-4
