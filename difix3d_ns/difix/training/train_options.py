"""Settings of a training of Difix. Light: the command line reads them before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class LossConfig:
    """Weights of the losses; 0 leaves one out."""

    l2: float = 1.0
    """Mean squared difference, in [-1, 1]."""
    charbonnier: float = 0.0
    """Mean absolute difference, in [-1, 1], rounded off near zero; punishes large errors less than l2."""
    psnr: float = 0.0
    """Logarithm to base 10 of each example's mean squared difference, a tenth of its PSNR: an example that is nearly
    right counts as much as one that is all wrong, so to spoil it is not cheap."""
    ssim: float = 0.0
    """One minus the structural similarity."""
    perceptual: float = 1.0
    """LPIPS on VGG-16, or VGG perceptual distance: see `backbone`."""
    gram: float = 1.0
    """Difference of the Gram matrices of VGG-16's features."""
    gram_warmup_steps: int = 2000
    """Steps before the Gram loss counts."""
    backbone: Literal["auto", "torchvision", "file", "none"] = "auto"
    """VGG-16 below `perceptual`, `gram` and validation. `torchvision`: its own, cached or downloaded (528 MB), which
    gives LPIPS; `file`: that of `vgg_weights`, which gives VGG perceptual distance, whose layers are not calibrated
    on human judgement; `auto`: the first of the two that can be had; without any the run says so and goes on."""
    vgg_weights: Path | None = None
    """Safetensors with VGG-16's convolutions under torchvision's names (`features.N.weight`)."""


@dataclass
class TrainConfig:
    """Trains a Difix network on pairs of degraded renders and photos."""

    pairs: Path
    """JSON of the pairs, in the published layout, as `ns-difix curate` writes it."""
    output_dir: Path
    """Gets the network, so that `DifixPipeline.from_pretrained` loads this folder, and `metrics.json`; in its
    subfolder `training` the tracker's logs and the checkpoint. A run that finds a checkpoint goes on from it. With
    several machines it lies on a disk that they share."""
    base: str | None = None
    """Network to start from: a folder or a hub id of a Difix or of SD-Turbo."""
    architecture: Literal["mini", "sd-turbo"] = "mini"
    """Sizes of a network that starts from random weights, where no `base` is given."""
    train_parts: Literal["published", "unet", "unet-decoder", "decoder", "all"] | None = None
    """`published`: the UNet, a LoRA on the decoder and the skip convolutions, while the rest stays as it is;
    `unet`: the UNet alone; `unet-decoder`: UNet, skip convolutions and the whole decoder; `decoder`: the decoder and
    the skip convolutions; `all`: everything. Left open, `published` with a `base`; without one `unet-decoder` for the
    `mini` architecture, whose encoder is made by hand, and `all` for the other."""
    lora_rank: int = 4
    """Rank of the decoder's LoRA."""
    steps: int = 10_000
    """Training steps."""
    batch_size: int = 1
    """Pairs that go through the network together, on each process."""
    gradient_accumulation_steps: int = 1
    """Batches to a step, on each process: what a step learns from grows with it, its memory does not."""
    crop_size: int = 512
    """Side of the square crops, in pixels."""
    learning_rate: float = 2e-5
    """Of AdamW, after the warm-up. A small network from random weights takes 1e-3."""
    autoencoder_learning_rate: float | None = None
    """Of what is trained of the autoencoder, where that is to learn more slowly than the UNet; None for the same."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    ema_decay: float = 0.999
    """Of the moving average of the weights, which is what is validated and saved; 0 takes the weights themselves."""
    reference_probability: float = 0.7
    """Share of the steps that give the network the reference, so that it works with and without."""
    clean_probability: float = 0.0
    """Share of the examples whose input is the photo itself, so that the network leaves good renders alone."""
    color_jitter: float = 0.0
    """Largest random change of the colour channels' gain and offset; above 0 the channels also change places. With
    few scenes their colours would be learnt by heart."""
    min_scale: float = 1.0
    """Crops come from pictures shrunk at random down to this factor; 1 leaves their size."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Weights of the losses."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """Number format of the computation, on all processes; `auto` takes bf16 with CUDA."""
    gradient_checkpointing: bool = False
    """Saves memory for time: activations are computed again on the way back."""
    num_workers: int = 2
    """Threads that read the pictures of the next steps."""
    skip_bad: bool = False
    """Pairs with a picture that cannot be read are named, counted and passed over; else the training stops at one."""
    seed: int = 42
    """Of weights, crops and draws."""
    steps_per_save: int = 500
    """Steps between checkpoints."""
    steps_per_validation: int = 500
    """Steps between validations on the test pairs."""
    max_validation_pairs: int = 24
    """Test pairs of a validation, spread over all; the last validation takes all."""
    num_panels: int = 4
    """Test pairs that a validation shows: render, result without and with reference, photo."""
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where losses, metrics and these pictures go."""
    save_dtype: Literal["float32", "float16"] = "float32"
    """Number format of the saved network, in which the last validation is made."""
    save_pkl: bool = False
    """Also writes `model.pkl` in the layout of the authors' training checkpoints, in float32: what was trained, to be
    loaded over the `base`. Needs a `base` and the published parts."""
    balance_scenes: bool = False
    """All scenes equally often, however many pairs each has; a scene is a folder of photos."""
    balance_seen: bool = False
    """Renders of photos that their splat was trained on equally often as others, by `how` in the pairs: the ones are
    nearly right, the others hardly, and a network that rarely sees one kind spoils it."""
    damage_probability: float = 0.0
    """Share of the examples whose input is damaged further, by other colours, haze and blur that only the reference
    can undo; too large a share teaches to mend what real renders do not have."""
    moved_photo_probability: float = 0.0
    """Share of the examples whose reference is the photo itself, moved a little: the easiest view to learn from."""
