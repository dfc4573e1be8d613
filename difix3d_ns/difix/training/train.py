"""The training loop of Difix. It runs in one or many processes, can be resumed, and saves the averaged weights."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from jaxtyping import Float
from torch import Tensor, nn

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.number_formats import best_dtype
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.average import WeightAverage
from difix3d_ns.difix.training.checkpoint import TrainingState
from difix3d_ns.difix.training.checks import (
    check_options,
    explained_writing,
    require_equal,
    require_finite,
    require_folder,
)
from difix3d_ns.difix.training.evaluation import Evaluation, evaluate, mean_metrics
from difix3d_ns.difix.training.lora import fold_lora
from difix3d_ns.difix.training.losses import DifixLoss
from difix3d_ns.difix.training.networks import start_network, trainable_parameters
from difix3d_ns.difix.training.pairs import Pair, PairReader, read_pairs, require_trust
from difix3d_ns.difix.training.published_checkpoint import (
    PUBLISHED_CHECKPOINT,
    save_published_checkpoint,
)
from difix3d_ns.difix.training.sampling import Batch, PairSampler
from difix3d_ns.difix.training.tracking import Report
from difix3d_ns.difix.training.train_options import TrainConfig
from difix3d_ns.difix.training.vgg import load_perceptual

TRAINING_FOLDER = "training"
"""Subfolder of the output folder for files that only the training needs."""


def train(config: TrainConfig) -> dict[str, float]:
    """Trains a network, or resumes an interrupted training, and saves the network.

    Args:
        config: options of the training.

    Returns:
        Metrics on the test pairs as in `metrics.json`, see `Evaluation`. Empty without test pairs, and in all processes
        except the main one.

    Raises:
        DifixError: the pairs, an image, the checkpoint or the network to start from cannot be read, an option is
            invalid, or the loss is no longer finite.
    """
    check_options(config)
    train_pairs, test_pairs = read_pairs(config.pairs, "train"), read_pairs(config.pairs, "test")
    if not train_pairs:
        raise DifixError(f"{config.pairs} has no pairs to train on: its part train is missing or empty.")
    folder = config.output_dir / TRAINING_FOLDER
    for each in (config.output_dir, folder):
        require_folder(each)
    accelerator = Accelerator(
        mixed_precision=_mixed_precision(config),
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=folder,
    )
    with accelerator.local_main_process_first():  # each machine downloads once
        perceptual, perceptual_in_words = load_perceptual(config.loss)
        set_seed(config.seed)
        pipeline = start_network(config)
    loss_function = DifixLoss(config.loss, perceptual).to(accelerator.device)
    accelerator.print(perceptual_in_words, loss_function.in_words())
    accelerator.print(_step_in_words(config, accelerator.num_processes))
    if not test_pairs:
        accelerator.print(f"{config.pairs} has no part test, so there will be no validation.")

    parts = config.train_parts or _parts(config)
    parameters = trainable_parameters(pipeline, parts, config.lora_rank)
    network = _DenoiseModule(pipeline)
    network.to(memory_format=torch.channels_last)  # faster convolutions
    if config.gradient_checkpointing:
        pipeline.vae.enable_gradient_checkpointing()
        pipeline.unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(_by_learning_rate(pipeline, config), weight_decay=config.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
    network, optimizer = accelerator.prepare(network, optimizer)
    average = WeightAverage(pipeline, config.ema_decay)
    state = TrainingState(pipeline, optimizer, scheduler, average)
    checkpoint = folder / "checkpoint.pt"
    start = state.restore(checkpoint)
    if start > config.steps:
        raise DifixError(
            f"the training in {config.output_dir} has already made {start} steps: give --steps {start} to save its "
            "network, more to go on, or another --output-dir."
        )
    require_equal([start], f"do not find the same checkpoint: {config.output_dir} must be on a disk that they share")
    require_equal([perceptual_in_words], "do not have the same VGG-16: choose a --loss.backbone that all have")

    if pipeline.takes_aligned_references and config.reference_probability > 0:
        require_trust(train_pairs, config.pairs)
    reader = PairReader(config.skip_bad, with_trust=pipeline.takes_aligned_references)
    sampler = PairSampler(
        train_pairs,
        config.crop_size,
        seed=config.seed,
        reference_probability=config.reference_probability,
        clean_probability=config.clean_probability,
        color_jitter=config.color_jitter,
        min_scale=config.min_scale,
        balance_scenes=config.balance_scenes,
        balance_seen=config.balance_seen,
        damage_probability=config.damage_probability,
        moved_photo_probability=config.moved_photo_probability,
        misaligned_probability=config.misaligned_probability,
        multiple=pipeline.size_multiple,
        reader=reader,
    )
    batches = sampler.batches(
        start,
        config.steps,
        config.batch_size,
        config.num_workers,
        parts=config.gradient_accumulation_steps,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )

    def validate(pairs: list[Pair]) -> tuple[dict[str, float], Evaluation]:
        """Measures this process's share of the pairs. All processes get the mean metrics, and each its own panels."""
        share = pairs[accelerator.process_index :: accelerator.num_processes]
        evaluation = evaluate(pipeline, share, reader, perceptual, config.num_panels)
        return mean_metrics(gather_object(evaluation.metrics)), evaluation

    def skipped() -> list[str]:
        """The pairs that any process has skipped, also before the training was resumed; all processes must call it."""
        return sorted({*state.skipped, *gather_object([pair.name for pair in list(reader.skipped)])})

    report = Report(config, accelerator, folder, start)
    for step in range(start, config.steps):
        losses = _backward(accelerator, network, loss_function, batches, step, config.gradient_accumulation_steps)
        gradient_norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
        require_finite("norm of the gradient", gradient_norm, step)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        average.update(pipeline)
        finished = step + 1
        report.step(finished, losses, float(scheduler.get_last_lr()[0]))
        if finished % config.steps_per_validation == 0 and test_pairs and finished < config.steps:
            with average.applied(pipeline):
                report.validation(finished, *validate(spread(test_pairs, config.max_validation_pairs)))
        if finished % config.steps_per_save == 0 or finished == config.steps:
            state.skipped = skipped()
            if accelerator.is_main_process:
                state.save(checkpoint, finished)

    average.swap(pipeline)
    if accelerator.is_main_process and config.save_pkl:
        save_published_checkpoint(config.output_dir / PUBLISHED_CHECKPOINT, pipeline, optimizer)
    _prepare_for_saving(pipeline, config)
    if accelerator.is_main_process:
        with explained_writing("the network", config.output_dir):
            pipeline.save_pretrained(config.output_dir)
    for part in (pipeline.vae, pipeline.unet):
        part.float()
    metrics, evaluation = validate(test_pairs)
    report.validation(config.steps, metrics, evaluation)
    names = skipped()
    if accelerator.is_main_process:
        with explained_writing("the network", config.output_dir):
            _write_summary(config, metrics, len(test_pairs), names)
    if names:
        accelerator.print(f"Skipped {len(names)} pairs that cannot be read; metrics.json lists them.")
    # What exchanges the gradients must be gone before its process group is closed. Otherwise it is the last to hold the
    # group and frees it, and torch 2.6 then waits forever for a thread of the group, which waits for this one.
    accelerator.free_memory()
    del network
    gc.collect()
    report.close()
    return metrics if accelerator.is_main_process else {}


def _by_learning_rate(pipeline: DifixPipeline, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW's parameter groups: the trained parameters of the autoencoder and the UNet, with their learning rates."""
    of_autoencoder = config.autoencoder_learning_rate
    of_autoencoder = config.learning_rate if of_autoencoder is None else of_autoencoder
    groups = [
        {"params": [parameter for parameter in part.parameters() if parameter.requires_grad], "lr": learning_rate}
        for part, learning_rate in ((pipeline.vae, of_autoencoder), (pipeline.unet, config.learning_rate))
    ]
    return [group for group in groups if group["params"]]


def _parts(config: TrainConfig) -> Literal["published", "unet-decoder", "all"]:
    if config.base is not None:
        return "published"
    return "unet-decoder" if config.architecture == "mini" else "all"


def _step_in_words(config: TrainConfig, num_processes: int) -> str:
    batches = config.gradient_accumulation_steps
    return (
        f"Each step trains on {num_processes * batches * config.batch_size} pairs (processes: {num_processes}, batches "
        f"per process: {batches}, pairs per batch: {config.batch_size})."
    )


def _mixed_precision(config: TrainConfig) -> str:
    if config.mixed_precision == "auto":
        suits = torch.cuda.is_available() and best_dtype(f"cuda:{torch.cuda.current_device()}") is torch.bfloat16
        return "bf16" if suits else "no"
    return config.mixed_precision


def _backward(
    accelerator: Accelerator,
    network: nn.Module,
    loss_function: DifixLoss,
    batches: Iterator[Batch],
    step: int,
    num_batches: int,
) -> dict[str, Tensor]:
    """Accumulates the gradients of a step's batches; returns the mean losses of this process."""
    means: dict[str, Tensor] = {}
    for number in range(num_batches):
        inputs, photos = (_in_range(tensor.to(accelerator.device)) for tensor in next(batches))
        # The processes exchange gradients only with the last batch of the step.
        with accelerator.no_sync(network) if number < num_batches - 1 else nullcontext():
            with accelerator.autocast():
                cleaned = network(inputs)
            losses = {name: each / num_batches for name, each in loss_function(cleaned.float(), photos, step).items()}
            total = torch.stack(list(losses.values())).sum()
            require_finite("loss", total.detach(), step)
            accelerator.backward(total)
        for name, each in losses.items():
            means[name] = means.get(name, torch.zeros_like(each)) + each.detach()
    return means


def _in_range(images: Float[Tensor, "*batch channels size size"]) -> Float[Tensor, "*batch channels size size"]:
    """Colours in [-1, 1], from [0, 1]; a fourth channel as it is."""
    return torch.cat([images[..., :3, :, :] * 2 - 1, images[..., 3:, :, :]], dim=-3)


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Factor on the learning rate at a step: a linear warm-up, then constant or a half cosine down to 1 %."""
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return rise
    return rise * max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps))))


def spread(pairs: list[Pair], count: int) -> list[Pair]:
    """At most `count` pairs, evenly spaced."""
    if len(pairs) <= count:
        return pairs
    return [pairs[index * len(pairs) // count] for index in range(count)]


class _DenoiseModule(nn.Module):
    """The differentiable part of the pipeline as a module that accelerate can distribute."""

    def __init__(self, pipeline: DifixPipeline) -> None:
        super().__init__()
        self.vae, self.unet = pipeline.vae, pipeline.unet
        self._denoise = pipeline.denoise

    def forward(self, images: Float[Tensor, "batch views channels size size"]) -> Float[Tensor, "batch 3 size size"]:
        return self._denoise(images)


def _prepare_for_saving(pipeline: DifixPipeline, config: TrainConfig) -> None:
    fold_lora(pipeline.vae)
    pipeline.register_to_config(trained_with_reference=config.reference_probability > 0)
    network = _DenoiseModule(pipeline).eval().to(memory_format=torch.contiguous_format)
    if config.save_dtype == "float16":
        network.half()


def _write_summary(config: TrainConfig, metrics: dict[str, float], num_test_pairs: int, skipped: list[str]) -> None:
    """Writes the metrics of the saved network and the options of its training."""
    summary = {"metrics": metrics, "num_test_pairs": num_test_pairs, "skipped_pairs": skipped, "config": asdict(config)}
    (config.output_dir / "metrics.json").write_text(json.dumps(summary, indent=1, default=str))
