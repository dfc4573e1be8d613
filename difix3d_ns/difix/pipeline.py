"""Difix as a diffusers pipeline: images in, cleaned images out."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils.outputs import BaseOutput
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import Self

from difix3d_ns.difix.batching import batches_of_one_size
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.fusion import STRIDE, comparison, fuse
from difix3d_ns.difix.images import (
    ImageInput,
    OutputType,
    check_options,
    check_result,
    pad_to_multiple,
    resize,
    resize_with_alpha,
    to_image_list,
    to_output,
    with_alpha,
)
from difix3d_ns.difix.number_formats import best_dtype
from difix3d_ns.difix.reference_cache import ReferenceCache
from difix3d_ns.difix.unet import mix_references, predict_noise
from difix3d_ns.difix.vae import SkipAutoencoderKL

TIMESTEP = 199
"""The diffusion step at which a render counts as a noisy photo (arXiv 2503.01774, section 4.1)."""
MAX_PIXELS_PER_BATCH = 576 * 1024
"""Default bound on the pixels that go through the network together: one image of the paper's size."""

logger = logging.getLogger(__name__)


@dataclass
class DifixPipelineOutput(BaseOutput):
    """Result of a `DifixPipeline`."""

    images: Any
    """The cleaned images, in the form asked for."""


class DifixPipeline(DiffusionPipeline):
    """One-step diffusion that cleans renders, optionally guided by a reference photo.

    An image is encoded, taken for a noisy image at step 199, denoised in one UNet call and decoded; no noise is
    added. With a reference the self-attention of the UNet sees both images; only the target is decoded.

    A network for aligned references takes references of four channels, see `difix3d_ns.difix.fusion`. It encodes a
    comparison of both images in place of the image, and decodes factors by which they are fused.

    Args:
        vae: the autoencoder with skips.
        unet: a stock UNet.
        scheduler: gives the noise level of the one step.
        prompt_embedding: embedding of the fixed prompt; zeros if None. It is a constant, so no text encoder is kept.
        trained_with_reference: whether the network expects a reference; None where it is not known.
        attention_by_places: whether the UNet's self-attention knows where its tokens are; no published network does.
        trained_with_aligned_references: whether the network is one for aligned references; no published network is.

    Attributes:
        reference_cache: what is kept of references that were seen; `max_entries` bounds it.
    """

    model_cpu_offload_seq = "unet->vae"

    vae: SkipAutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDPMScheduler

    def __init__(
        self,
        vae: SkipAutoencoderKL,
        unet: UNet2DConditionModel,
        scheduler: DDPMScheduler,
        prompt_embedding: Float[Tensor, "1 prompt_tokens width"] | None = None,
        trained_with_reference: bool | None = None,
        attention_by_places: bool = False,
        trained_with_aligned_references: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=mix_references(unet), scheduler=scheduler)
        self.register_to_config(trained_with_reference=trained_with_reference, attention_by_places=attention_by_places)
        if trained_with_aligned_references:  # the index of other networks stays as it was
            self.register_to_config(trained_with_aligned_references=True)
        self.reference_cache = ReferenceCache()
        self._dtype_follows_device = False
        self._told_of_missing_reference = False
        if prompt_embedding is None:
            prompt_embedding = torch.zeros(1, 1, unet.config["cross_attention_dim"])
        self.prompt_embedding = prompt_embedding

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        revision: str | None = None,
        torch_dtype: torch.dtype | None = None,
        base: str | os.PathLike | None = None,
    ) -> DifixPipeline:
        """Loads a Difix network; runs no code from its folder.

        Args:
            pretrained_model_name_or_path: a folder or a hub id in the layout of `nvidia/difix`, a folder written by
                `save_pretrained`, or a training checkpoint of the authors (`.pkl`).
            revision: branch, tag or commit of a hub id.
            torch_dtype: number format; if None float32, and `best_dtype` once the pipeline is moved to a CUDA device.
            base: for a `.pkl`, the SD-Turbo folder or hub id that it was trained from.

        Raises:
            DifixError: there is no such network, it is incomplete, or its keys are not Difix's.
        """
        from difix3d_ns.difix.checkpoints import load_components

        dtype = torch.float32 if torch_dtype is None else torch_dtype
        pipeline = cls(**load_components(pretrained_model_name_or_path, revision=revision, base=base, dtype=dtype))
        pipeline._dtype_follows_device = torch_dtype is None
        return pipeline

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As in diffusers. CUDA means channels last, and `best_dtype` if no number format is given here or at load."""
        given = [*args, *kwargs.values()]
        if any(isinstance(value, torch.dtype) for value in given):
            self._dtype_follows_device = False
        devices = [torch.device(value) for value in given if isinstance(value, (str, torch.device))]
        if any(device.type == "cuda" for device in devices):
            for part in (self.vae, self.unet):
                # Not so on the CPU, where PyTorch normalises large activations in this layout with errors of 1e-2.
                nn.Module.to(part, memory_format=torch.channels_last)
                if self._dtype_follows_device:
                    nn.Module.to(part, best_dtype(devices[0]))  # diffusers' own method warns of a cast that is wanted
            self._dtype_follows_device = False
        return super().to(*args, **kwargs)

    def compile(self, **options: Any) -> None:
        """Compiles the network's large parts; the first image of every size then takes much longer.

        Args:
            options: of `torch.compile`.
        """
        encoder, decoder = self.vae.encoder, self.vae.decoder
        large: list[Any] = [self.unet, *encoder.down_blocks, encoder.mid_block, decoder.mid_block, *decoder.up_blocks]
        for module in large:
            module.compile(**options)

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """Refused: slices would replace the attention that mixes target and reference."""
        if slice_size is None:
            return  # as diffusers switches slices off
        raise DifixError("attention cannot be sliced, as references need it whole: lower max_pixels_per_batch instead.")

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None) -> None:
        """Refused, as `enable_attention_slicing`. PyTorch's own attention is as economical."""
        raise DifixError("xformers cannot replace the attention, which mixes references; PyTorch's needs as little.")

    def disable_xformers_memory_efficient_attention(self) -> None:
        """Changes nothing, as xformers is never used."""

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Writes diffusers' folders and the prompt embedding; `from_pretrained` reads them.

        Args:
            save_directory: the folder.
            kwargs: as in diffusers, except `variant` and `max_shard_size`: each part is one file of the usual name.

        Raises:
            DifixError: one of these two is given.
        """
        if refused := sorted({"variant", "max_shard_size"} & kwargs.keys()):
            raise DifixError(f"save_pretrained takes no {refused[0]} here: each part is written into one file.")
        from safetensors.torch import save_file

        super().save_pretrained(save_directory, **kwargs)
        save_file(
            {"prompt_embedding": self.prompt_embedding.detach().cpu().contiguous()},
            Path(save_directory) / "prompt_embedding.safetensors",
        )

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput,
        reference: ImageInput | None = None,
        output_type: OutputType = "pil",
        strength: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        timestep: int = TIMESTEP,
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
        max_pixels_per_batch: int = MAX_PIXELS_PER_BATCH,
    ) -> DifixPipelineOutput:
        """Cleans images. The same input gives the same output, bit for bit on one machine.

        Args:
            image: one picture or several, values in [0, 1], any sizes.
            reference: for each picture a photo of the same place from nearby, of any size; None for none. For a network
                for aligned references, it has a fourth channel that says how far each pixel is to be trusted; a
                reference of three channels is then not used, as nothing says that it is aligned.
            output_type: `pt`, `np` or `pil`; tensors come on the pipeline's device.
            strength: blend between the input (0) and the network's result (1).
            height: height at which the network works; the image's own if None.
            width: width at which the network works; the image's own if None.
            timestep: diffusion step as which the image counts.
            sample_posterior: draw the latents at random, as the published code does, in place of their mode.
            generator: source of these random numbers.
            max_pixels_per_batch: bound on the targets' pixels that are worked on together, which bounds the memory;
                a larger image is worked on alone, its largest layers tile by tile, with the same result.

        Returns:
            The cleaned images at exactly the input's sizes.

        Raises:
            DifixError: the input is no usable picture, references and pictures differ in number, an option is out
                of its range, or the network returns NaN or black images.
        """
        images = to_image_list(image)
        aligned = self.takes_aligned_references
        references = to_image_list(reference, "reference", keep_alpha=aligned) if reference is not None else None
        if references is not None and len(references) != len(images):
            raise DifixError(f"{len(images)} images but {len(references)} references: give one to each, or none.")
        check_options(strength, height, width, timestep, num_timesteps=len(self.scheduler.alphas_cumprod))
        if references is None or (aligned and all(len(reference) < 4 for reference in references)):
            self._tell_of_missing_reference()
        own_sizes = [(picture.shape[1], picture.shape[2]) for picture in images]
        sizes = [(height or own_height, width or own_width) for own_height, own_width in own_sizes]
        fixed: dict[int, Tensor] = {}
        for batch in batches_of_one_size(sizes, max_pixels_per_batch):
            size = sizes[batch[0]]
            views = [[images[i]] if references is None else [images[i], references[i]] for i in batch]
            results = self.denoise(
                torch.stack([torch.cat([self._prepare(view, size) for view in pair]) for pair in views]),
                timestep=timestep,
                sample_posterior=sample_posterior,
                generator=generator,
                tiled=size[0] * size[1] > max_pixels_per_batch,
            )
            for i, result in zip(batch, results.split(1), strict=True):
                resized = resize(result[..., : size[0], : size[1]].float(), *own_sizes[i])[0]
                cleaned, original = (resized / 2 + 0.5).clamp(0, 1), images[i].to(resized).clamp(0, 1)
                check_result(cleaned, original, self.dtype)
                fixed[i] = original.lerp(cleaned, strength) if strength < 1 else cleaned
        return DifixPipelineOutput(images=to_output([fixed[i] for i in range(len(images))], output_type))

    def denoise(
        self,
        images: Float[Tensor, "batch views channels height width"],
        prompt_embedding: Float[Tensor, "1 prompt_tokens width"] | None = None,
        timestep: int = TIMESTEP,
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
        tiled: bool = False,
    ) -> Float[Tensor, "batch 3 height width"]:
        """The network itself, differentiable.

        Args:
            images: in [-1, 1], target first, then references; sides divisible by `size_multiple`. For a network for
                aligned references with a fourth channel in [0, 1].
            prompt_embedding: in place of the pipeline's own.
            timestep: diffusion step as which the images count.
            sample_posterior: draw the latents at random in place of their mode.
            generator: source of these random numbers.
            tiled: run the autoencoder's large layers tile by tile, without gradients.

        Returns:
            The cleaned targets in about [-1, 1], not clamped.
        """
        aligned = self.takes_aligned_references
        inputs = comparison(images)[:, None].to(self.dtype) if aligned else images
        latents, skips = self.encode(inputs, sample_posterior, generator, tiled)
        embedding = self.prompt_embedding if prompt_embedding is None else prompt_embedding
        by_places = self.config["attention_by_places"]
        noise = predict_noise(self.unet, latents, timestep, embedding.to(latents), by_places)
        decoded = self.decode(self.clean_latents(latents[:, 0], noise[:, 0], timestep), skips, tiled)
        return fuse(images, decoded.to(images)) if aligned else decoded

    @property
    def takes_aligned_references(self) -> bool:
        """Whether references have a fourth channel that says how far they are to be trusted."""
        return bool(self.config.get("trained_with_aligned_references", False))

    @property
    def size_multiple(self) -> int:
        """The sides of images for `denoise` are divisible by this."""
        return self.vae.downscale_factor * (STRIDE if self.takes_aligned_references else 1)

    def encode(
        self,
        images: Float[Tensor, "batch views channels height width"],
        sample_posterior: bool = False,
        generator: torch.Generator | None = None,
        tiled: bool = False,
    ) -> tuple[Float[Tensor, "batch views latent h w"], list[Float[Tensor, "batch _ _ _"]]]:
        """Scaled latents of all views, and the targets' encoder activations.

        References are encoded apart, so that their activations are not held in memory, and each photo once: what
        was made of it stays in `reference_cache`, except where gradients are wanted.
        """
        posterior, skips = self.vae.encode_with_skips(images[:, 0], tiled=tiled)
        posteriors = [posterior] + [self._encode_references(view, tiled) for view in images[:, 1:].unbind(1)]
        latents = [each.sample(generator) if sample_posterior else each.mode() for each in posteriors]
        return torch.stack(latents, dim=1) * self.vae.config["scaling_factor"], skips

    def _encode_references(
        self, references: Float[Tensor, "batch 3 height width"], tiled: bool
    ) -> DiagonalGaussianDistribution:
        if torch.is_grad_enabled():
            return self.vae.encode_with_skips(references, keep_skips=False)[0]
        keys = self.reference_cache.keys(references, self.vae)
        found = {key: self.reference_cache.get(key) for key in keys}
        new = [key for key, moments in found.items() if moments is None]
        if new:
            photos = references[[keys.index(key) for key in new]]
            posterior = self.vae.encode_with_skips(photos, keep_skips=False, tiled=tiled)[0]
            for key, parameters in zip(new, posterior.parameters.split(1), strict=True):
                found[key] = parameters
                self.reference_cache.put(key, parameters)
        moments = [moments for key in keys if (moments := found[key]) is not None]
        return DiagonalGaussianDistribution(torch.cat(moments))

    def clean_latents(
        self, latents: Float[Tensor, "batch latent h w"], noise: Float[Tensor, "batch latent h w"], timestep: int
    ) -> Float[Tensor, "batch latent h w"]:
        """The scheduler's step from `timestep` to the clean end: z0 = (z - sqrt(1 - a) eps) / sqrt(a)."""
        alpha = float(self.scheduler.alphas_cumprod[timestep])
        # In float32, as the division magnifies what half precision rounds.
        return ((latents.float() - math.sqrt(1 - alpha) * noise.float()) / math.sqrt(alpha)).to(latents)

    def decode(
        self, latents: Float[Tensor, "batch latent h w"], skips: list[Float[Tensor, "batch _ _ _"]], tiled: bool = False
    ) -> Float[Tensor, "batch 3 height width"]:
        """Images in about [-1, 1] of clean scaled latents."""
        return self.vae.decode_with_skips(latents / self.vae.config["scaling_factor"], skips, tiled=tiled)

    def _prepare(
        self, picture: Float[Tensor, "channels _ _"], size: tuple[int, int]
    ) -> Float[Tensor, "1 channels padded_height padded_width"]:
        """One view as `denoise` takes it: on its device, at its size, padded, in [-1, 1]."""
        moved = picture[None].to(self._execution_device)
        if not self.takes_aligned_references:
            return (pad_to_multiple(resize(moved, *size), self.size_multiple) * 2 - 1).to(self.dtype)
        # A picture without a fourth channel says nothing of where it is right. Colours keep their precision, as the
        # network in half precision returns only factors on them.
        padded = pad_to_multiple(resize_with_alpha(with_alpha(moved, 0.0), *size), self.size_multiple)
        return torch.cat([padded[:, :3] * 2 - 1, padded[:, 3:]], dim=1)

    def _tell_of_missing_reference(self) -> None:
        if self._told_of_missing_reference:
            return
        if self.takes_aligned_references:
            logger.warning(
                "This Difix network mixes images with photos that are aligned by the geometry of a run, and gets none: "
                "it returns the images as they are. A published network works without them."
            )
        elif self.config["trained_with_reference"]:
            logger.warning(
                "This Difix network was trained with reference photos and gets none: it cleans from the render alone. "
                "Give a photo of the same place as reference for better results."
            )
        else:
            return
        self._told_of_missing_reference = True
