"""Time and memory of Difix at the published size, compared with the same network run as published. Run by hand:

python tests/benchmarks/difix.py --height 288 --width 512

The weights are random. The published code runs the text encoder at every call, keeps the LoRA apart from the weights,
decodes both the reference and the image, and works image by image with PIL images. "Ours" is this package's pipeline,
which caches the encoded reference photos.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
import tyro
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from difix3d_ns.difix.architecture import DifixArchitecture, build_difix
from difix3d_ns.difix.images import to_image_list
from difix3d_ns.difix.pipeline import TIMESTEP, DifixPipeline
from difix3d_ns.difix.unet import predict_noise

LORA_RANK = 4


@dataclass
class BenchmarkConfig:
    """Settings of the benchmark."""

    height: int | None = None
    """Height of the images; 576 with CUDA, otherwise 192."""
    width: int | None = None
    """Width of the images; 1024 with CUDA, otherwise 320."""
    batch: int | None = None
    """Images per call, each with its own reference photo; 4 with CUDA, otherwise 1."""
    repeats: int = 3
    """Rounds, in each of which every variant runs once; the fastest call of each is reported."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device of the network, which is in bfloat16 with CUDA and in float32 otherwise."""
    compile: bool = False
    """Whether to compile this package's pipeline."""


class Stopwatch:
    """Seconds of named stages, on a device that may work asynchronously."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to a stage."""
        synchronize(self._device)
        started = time.perf_counter()
        yield
        synchronize(self._device)
        self.seconds[name] += time.perf_counter() - started


def synchronize(device: str) -> None:
    """Waits until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


class PublishedWay:
    """Runs the network of a pipeline as the published code does.

    Args:
        pipeline: its autoencoder and UNet are used.
        device: where it runs.
    """

    def __init__(self, pipeline: DifixPipeline, device: str) -> None:
        self._pipeline = pipeline
        self._device = device
        config = CLIPTextConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"
        )
        self._text_encoder = CLIPTextModel(config).eval().requires_grad_(False).to(device, pipeline.dtype)
        self._tokens = torch.randint(0, 49408, (1, 77), device=device)
        self._lora = {
            module: _random_lora(module)
            for name, module in pipeline.vae.decoder.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear))
        }

    @contextmanager
    def set_up(self) -> Iterator[None]:
        """A context with the network as in the published code: LoRA apart from the weights, not channels last."""
        parts: tuple[nn.Module, ...] = (self._pipeline.vae, self._pipeline.unet)
        for part in parts:
            part.to(memory_format=torch.contiguous_format)
        hooks = [
            module.register_forward_hook(lambda _, inputs, output, lora=lora: output + 2.0 * lora(inputs[0]))
            for module, lora in self._lora.items()
        ]
        yield
        for hook in hooks:
            hook.remove()
        self._pipeline.to(self._device)

    @torch.no_grad()
    def __call__(self, images: list[Image.Image], references: list[Image.Image], watch: Stopwatch) -> None:
        vae, unet, dtype = self._pipeline.vae, self._pipeline.unet, self._pipeline.dtype
        for image, reference in zip(images, references, strict=True):
            with watch.stage("text encoder"):
                embedding = self._text_encoder(self._tokens)[0].expand(2, -1, -1)
            with watch.stage("images in and out"):
                views = torch.stack(to_image_list([image, reference])).to(self._device, dtype) * 2 - 1
            with watch.stage("encoder"):
                posterior, skips = vae.encode_with_skips(views)
                latents = posterior.sample()[None] * vae.config["scaling_factor"]
            with watch.stage("UNet"):
                noise = predict_noise(unet, latents, TIMESTEP, embedding[:1])
                cleaned = self._pipeline.clean_latents(latents[0], noise[0], TIMESTEP)
            with watch.stage("decoder"):
                decoded = vae.decode_with_skips(cleaned / vae.config["scaling_factor"], skips)
            with watch.stage("images in and out"):
                arrays = (decoded / 2 + 0.5).clamp(0, 1).float().permute(0, 2, 3, 1).cpu().numpy()
                for array in arrays:
                    Image.fromarray((array * 255).round().astype(np.uint8))


def _random_lora(module: nn.Conv2d | nn.Linear) -> nn.Sequential:
    if isinstance(module, nn.Linear):
        lora = nn.Sequential(
            nn.Linear(module.in_features, LORA_RANK, bias=False), nn.Linear(LORA_RANK, module.out_features, bias=False)
        )
    else:
        kernel: Any = module.kernel_size
        lora = nn.Sequential(
            nn.Conv2d(module.in_channels, LORA_RANK, kernel, padding=module.padding, bias=False),
            nn.Conv2d(LORA_RANK, module.out_channels, 1, bias=False),
        )
    return lora.requires_grad_(False).to(module.weight.device, module.weight.dtype)


def ours(pipeline: DifixPipeline, images: list, references: list, watch: Stopwatch) -> None:
    """Runs the package's pipeline and times its stages from outside."""
    stages = {"encode": "encoder", "decode": "decoder"}
    originals = {name: getattr(pipeline, name) for name in stages}
    forward = pipeline.unet.forward

    def timed(function: Callable, stage: str) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            with watch.stage(stage):
                return function(*args, **kwargs)

        return run

    for name, stage in stages.items():
        setattr(pipeline, name, timed(originals[name], stage))
    pipeline.unet.forward = timed(forward, "UNet")
    started = time.perf_counter()
    pipeline(images, references, max_pixels_per_batch=len(images) * images[0].width * images[0].height)
    synchronize(str(pipeline.device))
    watch.seconds["images in and out"] = time.perf_counter() - started - sum(watch.seconds.values())
    for name in stages:
        delattr(pipeline, name)
    pipeline.unet.forward = forward


def peak_bytes(work: Callable[[], object], device: str) -> int:
    """Peak memory of some work, minus the memory in use before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    process, finished = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def watch() -> None:
        nonlocal highest
        while not finished.wait(0.005):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    finished.set()
    watcher.join()
    return highest - before


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, which no network on this device can exceed by much."""
    side = 8192 if device == "cuda" else 2048
    left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    rates = []
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        left @ right
        synchronize(device)
        rates.append(2 * side**3 / (time.perf_counter() - started))
    return max(rates)


def count_operations(work: Callable[[], object]) -> int:
    """Floating-point operations of convolutions, matrix products and attention in some work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def main(config: BenchmarkConfig) -> None:
    """Runs the benchmark and prints the results."""
    cuda = config.device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    height, width = config.height or (576 if cuda else 192), config.width or (1024 if cuda else 320)
    batch = config.batch or (4 if cuda else 1)
    torch.set_default_dtype(dtype)
    with torch.device(config.device):
        pipeline = build_difix(DifixArchitecture.sd_turbo())
    pipeline.to(config.device)
    for part in (pipeline.vae, pipeline.unet):
        part.eval().requires_grad_(False)
    published = PublishedWay(pipeline, config.device)
    random = np.random.default_rng(0)

    def photos() -> list[Image.Image]:
        return [Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(batch)]

    images, references = photos(), photos()
    if config.compile:
        pipeline.compile()

    def run(way: str, watch: Stopwatch) -> None:
        if way == "published":
            published(images, references, watch)
            return
        if way == "ours, new photos":
            pipeline.reference_cache.clear()
        ours(pipeline, images, references, watch)

    ways = ("published", "ours, new photos", "ours, same photos")
    seconds: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    memory: dict[str, int] = dict.fromkeys(ways, 0)
    operations: dict[str, int] = {}
    for round_number in range(config.repeats + 1):  # the first round warms up
        for way in ways:
            with published.set_up() if way == "published" else _nothing():
                watch = Stopwatch(config.device)
                memory[way] = max(memory[way], peak_bytes(lambda way=way, watch=watch: run(way, watch), config.device))
                if round_number == 0 and not config.compile:
                    operations[way] = count_operations(lambda way=way: run(way, Stopwatch(config.device)))
            if round_number > 0:
                seconds[way].append(dict(watch.seconds))

    rate = matmul_rate(config.device, dtype)
    print(f"{batch} x {height} x {width}, {dtype}, {config.device}, {torch.get_num_threads()} threads")
    print(f"a matrix product runs at {rate / 1e12:.3f} TFLOP/s")
    fastest = {way: min(calls, key=lambda call: sum(call.values())) for way, calls in seconds.items()}
    for way, stages in fastest.items():
        total = sum(stages.values())
        ratio = sum(fastest["published"].values()) / total
        listed = ", ".join(f"{name} {value:.3f}" for name, value in stages.items())
        print(f"{way}: {total:.3f} s ({ratio:.2f}x), {memory[way] / 2**30:.2f} GiB more than the weights: {listed}")
        if way in operations:
            floor = operations[way] / rate
            print(
                f"    {operations[way] / 1e12:.3f} TFLOP, {floor:.3f} s at that rate, {floor / total:.0%} of the time"
            )


@contextmanager
def _nothing() -> Iterator[None]:
    yield


if __name__ == "__main__":
    with torch.no_grad():
        main(tyro.cli(BenchmarkConfig))
