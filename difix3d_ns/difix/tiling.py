"""Runs the autoencoder's layers tile by tile on large images, with the same result as untiled and so without seams.

Cutting an image into tiles and blending the results would shift colours, because every tile would be normalised by
its own statistics. Here each layer is tiled instead: normalisations use the statistics of the whole image, and a
convolution reads the rows around its tile from the whole activation. This saves the memory of everything between two
activations: normalised copies, upsampled copies and the workspace of the convolutions. Tiles are as wide as the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UpDecoderBlock2D
from jaxtyping import Float
from torch import Tensor, nn

TILE_PIXELS = 128 * 1024
"""Maximum pixels per tile, at the resolution of each layer. A tile has at least one row."""

Activation = Float[Tensor, "batch channels height width"]


class Layers(Protocol):
    """Runs the layers of an autoencoder."""

    def down_block(self, block: nn.Module, sample: Activation) -> Activation:
        """Runs a block of the encoder; does not change `sample`."""
        ...

    def up_block(self, block: nn.Module, sample: Activation) -> Activation:
        """Runs a block of the decoder; may overwrite `sample`."""
        ...

    def convolution(
        self, convolution: nn.Conv2d, sample: Activation, norm: nn.GroupNorm | None = None, act: nn.Module | None = None
    ) -> Activation:
        """Runs an optional normalisation, an optional activation function, and a convolution."""
        ...

    def add_skip(self, sample: Activation, convolution: nn.Module, skip: Activation, gamma: float) -> Activation:
        """Adds `gamma` times the convolution of a skip to `sample`; may overwrite `sample`."""
        ...


class WholeLayers:
    """Runs layers on whole activations, as diffusers does; differentiable. The methods are those of `Layers`.

    Args:
        run_block: calls a block, for example with gradient checkpointing.
    """

    def __init__(self, run_block: Callable[[nn.Module, Activation], Activation] = lambda block, sample: block(sample)):
        self._run_block = run_block

    def down_block(self, block: nn.Module, sample: Activation) -> Activation:
        return self._run_block(block, sample)

    def up_block(self, block: nn.Module, sample: Activation) -> Activation:
        return self._run_block(block, sample)

    def convolution(
        self, convolution: nn.Conv2d, sample: Activation, norm: nn.GroupNorm | None = None, act: nn.Module | None = None
    ) -> Activation:
        sample = norm(sample) if norm is not None else sample
        return convolution(act(sample) if act is not None else sample)

    def add_skip(self, sample: Activation, convolution: nn.Module, skip: Activation, gamma: float) -> Activation:
        return torch.add(sample, convolution(skip), alpha=gamma)


class TiledLayers:
    """Runs layers tile by tile; not differentiable. The methods are those of `Layers`."""

    def down_block(self, block: nn.Module, sample: Activation) -> Activation:
        if not isinstance(block, DownEncoderBlock2D):
            return block(sample)
        for index, resnet in enumerate(block.resnets):
            sample = self._resnet(resnet, sample, overwrite=index > 0)
        for downsampler in block.downsamplers or ():
            convolution: Any = downsampler.conv
            # diffusers pads the encoder's downsampling convolutions only at the right and the bottom.
            sample = self._convolve(convolution, sample, pad_after=1 if convolution.padding[0] == 0 else 0)
        return sample

    def up_block(self, block: nn.Module, sample: Activation) -> Activation:
        if not isinstance(block, UpDecoderBlock2D):
            return block(sample)
        for resnet in block.resnets:
            sample = self._resnet(resnet, sample, overwrite=True)
        for upsampler in block.upsamplers or ():
            convolution: Any = upsampler.conv
            sample = self._convolve(convolution, sample, upscale=2)
        return sample

    def convolution(
        self, convolution: nn.Conv2d, sample: Activation, norm: nn.GroupNorm | None = None, act: nn.Module | None = None
    ) -> Activation:
        return self._convolve(convolution, sample, norm, act)

    def add_skip(self, sample: Activation, convolution: nn.Module, skip: Activation, gamma: float) -> Activation:
        for rows in self._tiles(*sample.shape[-2:]):
            sample[:, :, rows].add_(convolution(skip[:, :, rows]), alpha=gamma)
        return sample

    def _tiles(self, height: int, width: int) -> Iterator[slice]:
        rows = max(1, TILE_PIXELS // width)
        return (slice(start, min(start + rows, height)) for start in range(0, height, rows))

    def _resnet(self, block: Any, sample: Activation, overwrite: bool) -> Activation:
        assert isinstance(block, ResnetBlock2D)

        def shortcut(rows: slice) -> Activation:
            own = sample[:, :, rows]
            return block.conv_shortcut(own) if block.conv_shortcut is not None else own

        hidden = self._convolve(block.conv1, sample, block.norm1, block.nonlinearity)
        out = None
        num_outputs = _base_of(block.conv2).out_channels
        if overwrite and num_outputs <= sample.shape[1]:
            # Each tile of the input is no longer needed once its output is written.
            out = sample[:, :num_outputs]
        return self._convolve(block.conv2, hidden, block.norm2, block.nonlinearity, residual=shortcut, out=out)

    def _convolve(
        self,
        convolution: nn.Conv2d,
        sample: Activation,
        norm: nn.GroupNorm | None = None,
        act: nn.Module | None = None,
        upscale: int = 1,
        pad_after: int = 0,
        residual: Callable[[slice], Activation] | None = None,
        out: Activation | None = None,
    ) -> Activation:
        """Normalisation, activation function, upsampling, convolution and residual, one tile after another.

        Args:
            convolution: has a square kernel.
            sample: the input.
            norm: applied to the input.
            act: applied after `norm`.
            upscale: factor of a nearest-neighbour upsampling before the convolution.
            pad_after: zeros added at the right and the bottom, besides the convolution's own padding on all sides.
            residual: returns what is added to the given rows of the output.
            out: receives the output; may be the tensor that `residual` reads.
        """
        shape_of = _base_of(convolution)
        (kernel, _), (stride, _), own_padding = shape_of.kernel_size, shape_of.stride, int(shape_of.padding[0])
        height, width = sample.shape[-2] * upscale, sample.shape[-1] * upscale
        out_height, out_width = (
            (side + 2 * own_padding + pad_after - kernel) // stride + 1 for side in (height, width)
        )
        # If activations had another layout than the weights, every tile would be copied before and after.
        layout = _layout_of(shape_of)
        if out is None:
            shape = (len(sample), shape_of.out_channels, out_height, out_width)
            out = torch.empty(shape, dtype=sample.dtype, device=sample.device, memory_format=layout)
        factors = self._normalisation(norm, sample) if norm is not None else None
        for rows in self._tiles(out_height, out_width):
            first, last = rows.start * stride - own_padding, (rows.stop - 1) * stride - own_padding + kernel
            start, stop = max(first, 0), min(last, height)
            start -= start % stride
            tile = sample[:, :, start // upscale : -(-stop // upscale)]
            if factors is not None:
                tile = (tile.float() * factors[0] + factors[1]).to(sample.dtype)
            if act is not None:
                tile = act(tile)
            if upscale > 1:
                offset = start % upscale
                tile = F.interpolate(tile, scale_factor=float(upscale), mode="nearest")
                tile = tile[:, :, offset : offset + stop - start]
            if pad_after:
                tile = F.pad(tile, (0, pad_after, 0, min(pad_after, last - stop)))
            # The module is called, not only its weights, because its hooks can stop the network. Its padding is right
            # at the border of the image. Inside, it spoils the first and last rows, which are those of other tiles.
            result = convolution(tile.contiguous(memory_format=layout))
            result = result[:, :, rows.start - start // stride : rows.stop - start // stride]
            out[:, :, rows] = result + residual(rows) if residual is not None else result
        return out

    def _normalisation(
        self, norm: nn.GroupNorm, sample: Activation
    ) -> tuple[Float[Tensor, "batch channels 1 1"], Float[Tensor, "batch channels 1 1"]]:
        """Factor and offset that apply a normalisation over the whole activation, in float32."""
        weights, means, variances = [], [], []
        for rows in self._tiles(*sample.shape[-2:]):
            grouped = sample[:, :, rows].float().reshape(len(sample), norm.num_groups, -1)
            variance, mean = torch.var_mean(grouped, dim=-1, correction=0)
            weights.append((rows.stop - rows.start) / sample.shape[-2])
            means.append(mean)
            variances.append(variance)
        weight = torch.tensor(weights, device=sample.device)[:, None, None]
        tile_means = torch.stack(means)
        mean = (weight * tile_means).sum(dim=0)
        # The variance over all tiles is the mean of their variances plus the variance of their means.
        variance = (weight * (torch.stack(variances) + (tile_means - mean).square())).sum(dim=0)
        per_group = norm.num_channels // norm.num_groups
        deviation = (variance + norm.eps).sqrt().repeat_interleave(per_group, dim=1)
        factor = norm.weight.float() / deviation
        offset = norm.bias.float() - mean.repeat_interleave(per_group, dim=1) * factor
        return factor[..., None, None], offset[..., None, None]


def _base_of(convolution: nn.Module) -> nn.Conv2d:
    """The convolution itself, or the one that a LoRA changes, which has the same shape."""
    return getattr(convolution, "base_layer", convolution)  # type: ignore[return-value]


def _layout_of(convolution: nn.Conv2d) -> torch.memory_format:
    """The layout of a convolution's weights; those that fit both layouts count as contiguous."""
    weight = convolution.weight
    if weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format
