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
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.average import WeightAverage
from difix3d_ns.difix.training.checkpoint import TrainingState
from difix3d_ns.difix.training.config import TrainConfig
from difix3d_ns.difix.training.evaluation import evaluate
from difix3d_ns.difix.training.lora import fold_lora
from difix3d_ns.difix.training.losses import DifixLoss, losses_in_words
from difix3d_ns.difix.training.networks import start_network, trainable_parameters
from difix3d_ns.difix.training.pairs import Pair, read_pairs
from difix3d_ns.difix.training.published_checkpoint import (
    PUBLISHED_CHECKPOINT,
    check_published_checkpoint,
    save_published_checkpoint,
)
from difix3d_ns.difix.training.sampling import PairSampler

STEPS_PER_LOG = 10
TRAINING_FOLDER = "training"
"""Subfolder of the output folder for what only the training itself needs."""
SEED_STRIDE = 1_000_003
"""Between the seeds of two processes, which draw different crops."""


def train(config: TrainConfig) -> dict[str, float]:
    """Trains a network, or goes on with an interrupted training, and saves it.

    Args:
        config: see `TrainConfig`.

    Returns:
        Metrics on the test pairs as in `metrics.json`, see `evaluate`; empty without test pairs, and on all
        processes but the first.

    Raises:
        DifixError: the pairs, a picture, the checkpoint or the network to start from cannot be read, an option makes
            no sense, or the loss is no longer finite.
    """
    check_published_checkpoint(config)
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    set_seed(config.seed)
    train_pairs, test_pairs = read_pairs(config.pairs, "train"), read_pairs(config.pairs, "test")
    if not train_pairs:
        raise DifixError(f"the pairs {config.pairs} have none to train on: their part train is missing or empty.")
    loss_function = DifixLoss(config.loss).to(accelerator.device)
    accelerator.print(losses_in_words(config.loss))
    if not test_pairs:
        accelerator.print(f"{config.pairs} has no part test: there will be no validation.")

    pipeline = start_network(config)
    parts = config.train_parts or ("published" if config.base else "all")
    parameters = trainable_parameters(pipeline, parts, config.lora_rank)
    network = _DenoiseModule(pipeline)
    network.to(memory_format=torch.channels_last)  # faster convolutions
    if config.gradient_checkpointing:
        pipeline.vae.enable_gradient_checkpointing()
        pipeline.unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
    network, optimizer = accelerator.prepare(network, optimizer)
    average = WeightAverage(pipeline, config.ema_decay)
    state = TrainingState(pipeline, optimizer, scheduler, average)
    checkpoint = config.output_dir / TRAINING_FOLDER / "checkpoint.pt"
    start = state.restore(checkpoint)

    sampler = PairSampler(
        train_pairs,
        config.crop_size,
        seed=config.seed + SEED_STRIDE * accelerator.process_index,
        reference_probability=config.reference_probability,
        clean_probability=config.clean_probability,
        color_jitter=config.color_jitter,
        min_scale=config.min_scale,
        multiple=pipeline.vae.downscale_factor,
    )
    batches = sampler.batches(start, config.steps, config.batch_size, config.num_workers)
    report = _Report(config, start, accelerator.is_main_process)
    for step, batch in enumerate(batches, start):
        inputs, photos = (tensor.to(accelerator.device) * 2 - 1 for tensor in batch)
        with accelerator.autocast():
            cleaned = network(inputs)
        losses = loss_function(cleaned.float(), photos, step)
        total = torch.stack(list(losses.values())).sum()
        if not total.isfinite():  # before it reaches the weights and a checkpoint
            raise DifixError(f"the loss is {total.item()} at step {step}: lower the learning rate and start anew.")
        accelerator.backward(total)
        accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        average.update(pipeline)
        finished = step + 1
        report.step(finished, losses, float(scheduler.get_last_lr()[0]))
        if not accelerator.is_main_process:
            continue
        if finished % config.steps_per_validation == 0 and test_pairs and finished < config.steps:
            chosen = spread(test_pairs, config.max_validation_pairs)
            with average.applied(pipeline):
                report.validation(finished, evaluate(pipeline, chosen))
        if finished % config.steps_per_save == 0 or finished == config.steps:
            state.save(checkpoint, finished)
    report.close()
    accelerator.wait_for_everyone()
    return _finish(config, pipeline, optimizer, average, test_pairs) if accelerator.is_main_process else {}


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Share of the learning rate at a step: a linear rise, then constant or half a cosine down to 1 %."""
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return rise
    return rise * max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps))))


def spread(pairs: list[Pair], count: int) -> list[Pair]:
    """At most `count` of the pairs, evenly spaced."""
    if len(pairs) <= count:
        return pairs
    return [pairs[index * len(pairs) // count] for index in range(count)]


class _DenoiseModule(nn.Module):
    """The pipeline's differentiable part as a module, for accelerate to distribute."""

    def __init__(self, pipeline: DifixPipeline) -> None:
        super().__init__()
        self.vae, self.unet = pipeline.vae, pipeline.unet
        self._denoise = pipeline.denoise

    def forward(self, images: Float[Tensor, "batch views 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
        return self._denoise(images)


class _Report:
    """Progress bar and tensorboard, of the main process only."""

    def __init__(self, config: TrainConfig, start: int, is_main_process: bool) -> None:
        folder = config.output_dir / TRAINING_FOLDER / "logs"
        # What an interrupted run logged after its last checkpoint is logged again.
        self._writer = SummaryWriter(str(folder), purge_step=start) if is_main_process else None
        self._bar = tqdm(initial=start, total=config.steps, disable=not is_main_process)

    def step(self, step: int, losses: dict[str, Tensor], learning_rate: float) -> None:
        self._bar.update()
        if step % STEPS_PER_LOG != 0:
            return
        values = {name: float(value.detach()) for name, value in losses.items()}
        self._bar.set_postfix(loss=f"{sum(values.values()):.4f}")
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"loss/{name}", value, step)
            self._writer.add_scalar("learning_rate", learning_rate, step)

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        self._bar.write(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(f"validation/{name}", value, step)

    def close(self) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()


def _finish(
    config: TrainConfig, pipeline: DifixPipeline, optimizer: Any, average: WeightAverage, test_pairs: list[Pair]
) -> dict[str, float]:
    """Saves the network and its metrics on all test pairs, measured on what was saved."""
    average.swap(pipeline)
    if config.save_pkl:
        save_published_checkpoint(config.output_dir / PUBLISHED_CHECKPOINT, pipeline, optimizer)
    fold_lora(pipeline.vae)
    network = _DenoiseModule(pipeline).eval().to(memory_format=torch.contiguous_format)
    if config.save_dtype == "float16":
        network.half()
    pipeline.save_pretrained(config.output_dir)
    network.float()
    metrics = evaluate(pipeline, test_pairs)
    summary: dict[str, Any] = {"metrics": metrics, "num_test_pairs": len(test_pairs), "config": asdict(config)}
    _write_json(config.output_dir / "metrics.json", summary)
    return metrics


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, default=str))
