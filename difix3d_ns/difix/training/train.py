"""The training loop of Difix: one process or many, resumable, with the weights' moving average as its result."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from jaxtyping import Float
from pytorch_msssim import ssim
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from difix3d_ns.difix.architecture import DifixArchitecture, build_difix
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.config import LossConfig, TrainConfig
from difix3d_ns.difix.training.losses import DifixLoss
from difix3d_ns.difix.training.pairs import Pair, PairSampler, load_pair, read_pairs
from difix3d_ns.difix.vae import randomise_skip_convolutions


def train(config: TrainConfig) -> dict[str, float]:
    """Trains a network, or goes on with an interrupted training, and saves it.

    Args:
        config: see `TrainConfig`.

    Returns:
        Metrics on the test pairs, as in `metrics.json`: mean PSNR (dB) and SSIM of the renders, of the cleaned
        renders, and of those cleaned without reference.

    Raises:
        DifixError: the pairs, a picture or the network to start from cannot be read.
    """
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    set_seed(config.seed)
    pipeline = _start_network(config)
    loss_function = DifixLoss(config.loss).to(accelerator.device)
    accelerator.print(_losses_in_words(config.loss))

    network = _DenoiseModule(pipeline)
    parameters = _trainable_parameters(pipeline, config.train_parts)
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, config))
    network, optimizer = accelerator.prepare(network, optimizer)
    average = WeightAverage(pipeline, config.ema_decay)

    sampler = PairSampler(
        read_pairs(config.pairs, "train"),
        config.crop_size,
        # Each process draws crops of its own.
        seed=config.seed + 1_000_003 * accelerator.process_index,
        reference_probability=config.reference_probability,
        clean_probability=config.clean_probability,
        color_jitter=config.color_jitter,
    )
    test_pairs = read_pairs(config.pairs, "test")
    config.output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = config.output_dir / "checkpoint.pt"
    start = _restore(checkpoint, pipeline, optimizer, scheduler, average)
    writer = SummaryWriter(str(config.output_dir / "logs")) if accelerator.is_main_process else None

    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, disable=not accelerator.is_main_process)
    for step in bar:
        inputs, photos = (tensor.to(accelerator.device) * 2 - 1 for tensor in sampler.batch(step, config.batch_size))
        with accelerator.autocast():
            cleaned = network(inputs)
        losses = loss_function(cleaned.float(), photos, step)
        total = torch.stack(list(losses.values())).sum()
        accelerator.backward(total)
        accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        average.update(pipeline)
        finished = step + 1
        if writer is not None:
            _log(writer, bar, losses, total, scheduler, finished)
            if finished % config.steps_per_validation == 0 and test_pairs and finished < config.steps:
                chosen = test_pairs[:: max(1, len(test_pairs) // config.max_validation_pairs)]
                metrics = average.evaluate(pipeline, chosen)
                bar.write(f"step {finished}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
                for name, value in metrics.items():
                    writer.add_scalar(f"validation/{name}", value, finished)
            if finished % config.steps_per_save == 0 or finished == config.steps:
                _save_checkpoint(checkpoint, finished, pipeline, optimizer, scheduler, average)
    accelerator.wait_for_everyone()
    return _finish(config, pipeline, average, test_pairs) if accelerator.is_main_process else {}


class WeightAverage:
    """Exponential moving average of a network's weights.

    Args:
        pipeline: the network.
        decay: share of the old average at each update; the first updates use less, so that it catches up.
    """

    def __init__(self, pipeline: DifixPipeline, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.weights = {name: value.detach().clone() for name, value in _weights(pipeline).items()}

    @torch.no_grad()
    def update(self, pipeline: DifixPipeline) -> None:
        """Takes the network's present weights in."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, value in _weights(pipeline).items():
            self.weights[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def swap(self, pipeline: DifixPipeline) -> None:
        """Exchanges the network's weights with the average; twice changes nothing."""
        for name, value in _weights(pipeline).items():
            kept = value.clone()
            value.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    def evaluate(self, pipeline: DifixPipeline, pairs: list[Pair]) -> dict[str, float]:
        """Metrics of the averaged network on pairs."""
        self.swap(pipeline)
        try:
            return evaluate(pipeline, pairs)
        finally:
            self.swap(pipeline)


@torch.no_grad()
def evaluate(pipeline: DifixPipeline, pairs: list[Pair]) -> dict[str, float]:
    """Mean PSNR (dB) and SSIM over whole pictures: of doing nothing, of the network, and of it without reference.

    Args:
        pipeline: the network.
        pairs: what to measure on.
    """
    sums: dict[str, float] = {}
    for pair in pairs:
        views = load_pair(pair)
        render, photo, reference = views[:1], views[1:2], views[2:3] if len(views) == 3 else None
        results = {"nothing": render, "without_reference": pipeline(render, output_type="pt").images.cpu()}
        if reference is not None:
            results["with_reference"] = pipeline(render, reference, output_type="pt").images.cpu()
        for name, result in results.items():
            for metric, value in _psnr_and_ssim(result, photo).items():
                sums[f"{metric}_{name}"] = sums.get(f"{metric}_{name}", 0.0) + value / len(pairs)
    return dict(sorted(sums.items()))


def _psnr_and_ssim(image: Float[Tensor, "1 3 height width"], photo: Float[Tensor, "1 3 height width"]) -> dict:
    error = float((image - photo).square().mean())
    return {"psnr": -10 * math.log10(max(error, 1e-12)), "ssim": float(ssim(image, photo, data_range=1.0))}


class _DenoiseModule(nn.Module):
    """The pipeline's differentiable part as a module, for accelerate to distribute."""

    def __init__(self, pipeline: DifixPipeline) -> None:
        super().__init__()
        self.vae, self.unet = pipeline.vae, pipeline.unet
        self._denoise = pipeline.denoise

    def forward(self, images: Float[Tensor, "batch views 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
        return self._denoise(images)


def _start_network(config: TrainConfig) -> DifixPipeline:
    if config.base is not None:
        return DifixPipeline.from_pretrained(config.base)
    if config.train_parts != "all":
        raise DifixError("a network from random weights needs --train-parts all; or give a --base to start from.")
    pipeline = build_difix(DifixArchitecture.mini())
    # With the published start of 1e-5 all detail would have to pass the latents first.
    randomise_skip_convolutions(pipeline.vae, scale=1.0)
    return pipeline


def _trainable_parameters(pipeline: DifixPipeline, parts: str) -> list[nn.Parameter]:
    for module in (pipeline.vae, pipeline.unet):
        module.train()
        module.requires_grad_(True)
    if parts == "published":
        pipeline.vae.requires_grad_(False)
        pipeline.vae.decoder.requires_grad_(True)
    return [p for module in (pipeline.vae, pipeline.unet) for p in module.parameters() if p.requires_grad]


def _learning_rate_factor(step: int, config: TrainConfig) -> float:
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return rise
    return rise * max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps))))


def _weights(pipeline: DifixPipeline) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value
        for part in ("vae", "unet")
        for name, value in getattr(pipeline, part).named_parameters()
    }


def _losses_in_words(config: LossConfig) -> str:
    names = [name for name in ("l2", "ssim") if getattr(config, name) > 0]
    if config.vgg_weights is None:
        return (
            f"Losses: {', '.join(names)}. The perceptual and Gram losses are left out: --loss.vgg-weights is not set."
        )
    return f"Losses: {', '.join(names + [name for name in ('perceptual', 'gram') if getattr(config, name) > 0])}."


def _log(writer: SummaryWriter, bar: Any, losses: dict, total: Tensor, scheduler: Any, step: int) -> None:
    if step % 10 == 0:
        bar.set_postfix(loss=f"{float(total.detach()):.4f}")
        for name, value in losses.items():
            writer.add_scalar(f"loss/{name}", float(value.detach()), step)
        writer.add_scalar("learning_rate", scheduler.get_last_lr()[0], step)


def _save_checkpoint(
    path: Path, step: int, pipeline: DifixPipeline, optimizer: Any, scheduler: Any, average: WeightAverage
) -> None:
    unfinished = path.with_suffix(".unfinished")
    state = {
        "step": step,
        "weights": _weights(pipeline),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "average": average.weights,
        "num_updates": average.num_updates,
        "torch_rng": torch.get_rng_state(),
    }
    torch.save(state, unfinished)
    unfinished.replace(path)


def _restore(path: Path, pipeline: DifixPipeline, optimizer: Any, scheduler: Any, average: WeightAverage) -> int:
    """Reads a checkpoint, if there is one; returns the step to go on with."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    with torch.no_grad():
        for name, value in _weights(pipeline).items():
            value.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    average.weights = {name: value.to(average.weights[name]) for name, value in state["average"].items()}
    average.num_updates = state["num_updates"]
    torch.set_rng_state(state["torch_rng"])
    return int(state["step"])


def _finish(
    config: TrainConfig, pipeline: DifixPipeline, average: WeightAverage, test_pairs: list[Pair]
) -> dict[str, float]:
    """Saves the network and its metrics on all test pairs, measured in the number format that is saved."""
    if config.ema_decay > 0:
        average.swap(pipeline)
    for module in (pipeline.vae, pipeline.unet):
        module.eval()
        if config.save_dtype == "float16":
            module.half()
    pipeline.save_pretrained(config.output_dir / "network")
    for module in (pipeline.vae, pipeline.unet):
        module.float()
    metrics = evaluate(pipeline, test_pairs) if test_pairs else {}
    summary = {"metrics": metrics, "num_test_pairs": len(test_pairs), "config": asdict(config)}
    (config.output_dir / "metrics.json").write_text(json.dumps(summary, indent=1, default=str))
    return metrics
