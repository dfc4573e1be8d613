"""Options of the training of Difix. Imports nothing heavy, as the command line loads them first."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# tyro shows every line break of the texts below, so each sentence has its own line.


@dataclass
class LossConfig:
    """Weights of the losses; 0 switches a loss off."""

    l2: float = 1.0
    """Mean squared error of images in [-1, 1]."""
    charbonnier: float = 0.0
    """Mean absolute error of images in [-1, 1], smoothed near zero.
    It penalises large errors less than `l2`."""
    psnr: float = 0.0
    """Base-10 logarithm of each example's mean squared error, which is a tenth of its negative PSNR.
    A nearly perfect example counts as much as a bad one, so the network is penalised for spoiling it."""
    ssim: float = 0.0
    """One minus the SSIM."""
    perceptual: float = 1.0
    """LPIPS on VGG-16, or the VGG perceptual distance, depending on `backbone`."""
    gram: float = 1.0
    """Weighted sum over layers of the mean squared difference between the Gram matrices of VGG-16 features."""
    gram_warmup_steps: int = 2000
    """Steps before the Gram loss is switched on."""
    backbone: Literal["auto", "torchvision", "file", "none"] = "auto"
    """VGG-16 weights for `perceptual`, `gram` and validation.
    `torchvision`: torchvision's own weights, cached or downloaded (528 MB), with LPIPS as the distance.
    `file`: the weights of `vgg_weights`, with the VGG perceptual distance, which is not calibrated on human judgements.
    `auto`: `torchvision` if available, else `file`; without either, a message is printed and these losses are left out.
    `none`: no VGG-16; these losses are left out."""
    vgg_weights: Path | None = None
    """Safetensors file with VGG-16's convolutions under torchvision's names (`features.N.weight`)."""


@dataclass
class TrainConfig:
    """Trains a Difix network on pairs of degraded renders and photos."""

    pairs: Path
    """JSON of the pairs in the published layout, as written by `ns-difix curate`."""
    output_dir: Path
    """Folder for the trained network, which `DifixPipeline.from_pretrained` can load, and for `metrics.json`.
    Its subfolder `training` holds the tracker's logs and the checkpoint.
    If there is a checkpoint, the training resumes from it.
    Several machines need this folder on a disk that they share."""
    base: str | None = None
    """Network to start from: a folder or hub id of a Difix network or of SD-Turbo."""
    architecture: Literal["mini", "fusion", "sd-turbo"] = "mini"
    """Kind and sizes of the new network that is trained if no `base` is given.
    `fusion`: small; fuses renders with aligned references, which are pictures with alpha.
    `mini`: small; takes photos from nearby as references.
    `sd-turbo`: the sizes of the published network."""
    train_parts: Literal["published", "unet", "unet-decoder", "decoder", "all"] | None = None
    """Parts of the network that are trained.
    `published`: the UNet, a LoRA on the decoder, and the skip convolutions.
    `unet`: only the UNet.
    `unet-decoder`: the UNet and the whole decoder with its skip convolutions.
    `decoder`: only the decoder with its skip convolutions.
    `all`: everything.
    If not given: `published` with a `base`; without one, `unet-decoder` for `mini` and `all` for the others.
    The encoder of `mini` is set by hand and need not be trained."""
    lora_rank: int = 4
    """Rank of the decoder's LoRA."""
    steps: int = 10_000
    """Number of training steps."""
    batch_size: int = 1
    """Pairs per batch, in each process."""
    gradient_accumulation_steps: int = 1
    """Batches per step, in each process. More batches train on more pairs per step without taking more memory."""
    crop_size: int = 512
    """Side of the square crops, in pixels."""
    learning_rate: float = 2e-5
    """Learning rate of AdamW after the warm-up. A new small network needs about 1e-3."""
    autoencoder_learning_rate: float | None = None
    """Learning rate of the autoencoder, if it is to learn more slowly than the UNet; None for the same rate."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up; `cosine` lets it fall to 1 %."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Norm to which larger gradients are clipped."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, which is validated and saved; 0 uses the weights themselves."""
    reference_probability: float = 0.7
    """Fraction of the steps that use references, so that the network works with and without one."""
    clean_probability: float = 0.0
    """Fraction of the examples whose input is the photo itself, so that the network leaves good renders unchanged.
    With `loss.psnr` it must be 0 for a network that starts as the identity: these examples outweigh all others."""
    color_jitter: float = 0.0
    """Largest random change of the gain and offset of each colour channel; above 0, channels are also permuted.
    With few scenes, the network would otherwise memorise their colours."""
    min_scale: float = 1.0
    """Smallest factor by which images are randomly downscaled before cropping; 1 keeps their size."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the losses."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """Number format of the computation; `auto` uses bf16 on GPUs of compute capability 8.0 or
    more and float32 elsewhere."""
    gradient_checkpointing: bool = False
    """Whether to recompute activations in the backward pass, which saves memory and takes longer."""
    num_workers: int = 2
    """Threads that read the images of the next steps."""
    skip_bad: bool = False
    """Whether to skip pairs with an image that cannot be read, and to list them in `metrics.json`.
    By default the first such pair ends the training."""
    seed: int = 42
    """Seed of the initial weights and of all random draws."""
    steps_per_save: int = 500
    """Steps between checkpoints."""
    steps_per_validation: int = 500
    """Steps between validations on the test pairs."""
    max_validation_pairs: int = 24
    """Largest number of test pairs in a validation, evenly spaced; the last validation uses all."""
    num_panels: int = 4
    """Number of test pairs that each validation shows as panels: render, result without and with reference, photo."""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where losses, metrics and panels are logged."""
    save_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the saved weights, which the last validation measures."""
    save_pkl: bool = False
    """Whether to also write `model.pkl` in the layout of the authors' training checkpoints, in float32.
    It holds only what was trained and is loaded on top of the `base`.
    It requires a `base` and the `published` parts."""
    balance_scenes: bool = False
    """Whether to draw all scenes equally often, however many pairs each has; a scene is a folder of photos."""
    balance_seen: bool = False
    """Whether to draw renders of training photos of a splat as often as renders of held-out photos.
    The former are nearly right and the latter are not, and a network spoils whichever kind it rarely sees.
    The entry `how` of each pair says which kind it is."""
    damage_probability: float = 0.0
    """Fraction of the examples whose input is damaged further by colour shifts, haze and blur.
    Only the reference can undo this damage, so the network learns to use it.
    Too large a fraction teaches the network to repair damage that real renders do not have."""
    moved_photo_probability: float = 0.0
    """Fraction of the examples whose reference is the photo itself, slightly moved.
    It is the easiest reference to learn from."""
    misaligned_probability: float = 0.0
    """Fraction of the examples whose aligned reference is moved and changes its colours, but keeps its alpha.
    The network learns to compare render and reference instead of trusting every one."""
