"""Networks on test pairs, beside simple controls. Run by hand, on pairs made by `ns-difix curate`:

python tests/benchmarks/embedded_network.py --pairs pairs/pairs.json --networks new=NETWORK_FOLDER old=OTHER_FOLDER

The controls are the render, a Gaussian blur and an unsharp mask of it, and the aligned reference where it is known.
Blur and unsharp mask are tuned for PSNR on the training pairs of the same JSON. A network for aligned references is
measured with and without them. Any other network gets the references of `--raw-pairs`, pairs with the same ids made
with `--references raw`; without, it is left out. The table shows PSNR (dB), SSIM and, with `--vgg-weights`, the VGG
perceptual distance.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from torchvision.utils import save_image

from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.evaluation import psnr_and_ssim
from difix3d_ns.difix.training.pairs import Pair, load_pair, read_pairs
from difix3d_ns.difix.training.vgg import VggFeatures, feature_distance

SIGMAS = (0.5, 0.75, 1.0, 1.5, 2.0)
"""Standard deviations in pixels of the blurs that are tried."""
AMOUNTS = (0.1, 0.2, 0.4, 0.8)
"""Amounts of the unsharp masks that are tried."""
TRUSTED = 0.03
"""Alpha from which the aligned reference alone is shown."""

Method = Callable[[Tensor, Tensor | None], Tensor]
"""Makes an image of a render and its reference, if it has one; all of shape (1, channels, height, width), in [0, 1]."""


@dataclass
class Options:
    """What is measured."""

    pairs: Path
    """Pairs with aligned references."""
    networks: tuple[str, ...]
    """Networks, each as NAME=FOLDER."""
    raw_pairs: Path | None = None
    """The same pairs with raw references."""
    vgg_weights: Path | None = None
    """VGG-16 for the perceptual distance, see `ns-difix train --help`."""
    every: int = 1
    """Measures every n-th pair only."""
    pictures: Path | None = None
    """Folder for a picture of each pair: render, reference, the networks' results and photo, side by side."""


def main(options: Options) -> None:
    """Measures, and prints a table per scene and one of the means of the scenes."""
    pairs = read_pairs(options.pairs, "test")
    raw = {} if options.raw_pairs is None else {pair.name: pair for pair in read_pairs(options.raw_pairs, "test")}
    features = None if options.vgg_weights is None else VggFeatures.from_file(options.vgg_weights)
    methods = controls(read_pairs(options.pairs, "train"))
    scenes = scenes_of(options.pairs)
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    networks = {name: DifixPipeline.from_pretrained(folder) for name, _, folder in map(partition, options.networks)}
    for pair in pairs[:: options.every]:
        render, photo, reference = split_views(load_pair(pair, with_trust=True))
        results = {name: method(render, reference) for name, method in methods.items()}
        for name, network in networks.items():
            own = reference if network.takes_aligned_references else raw_reference(raw.get(pair.name))
            if network.takes_aligned_references:
                results[f"{name}, without reference"] = run(network, render, None)
            if own is not None:
                results[name] = run(network, render, own)
        of_photo = None if features is None else features(photo)
        for name, result in results.items():
            values = [*psnr_and_ssim(result, photo)]
            if features is not None and of_photo is not None:
                layers = zip(features(result), of_photo, strict=True)
                values.append(math.fsum(float(feature_distance(a, b)) for a, b in layers))
            found[f"{scenes[pair.name]}, {'trained on' if pair.seen else 'held out'}"][name].append(values)
        if options.pictures is not None:
            shown = [render, results["aligned reference"], *(results[name] for name in networks if name in results)]
            options.pictures.mkdir(parents=True, exist_ok=True)
            save_image(torch.cat([*shown, photo], dim=-1), options.pictures / f"{pair.name}.png")
        print(pair.name, flush=True)
    for key, by_method in found.items():
        print(f"\n{key}, {len(next(iter(by_method.values())))} pairs\n{table(by_method)}")
    for kind in ("held out", "trained on"):
        of_kind = [by_method for key, by_method in found.items() if key.endswith(kind)]
        means = {name: [mean(each[name]) for each in of_kind] for name in of_kind[0]} if of_kind else {}
        print(f"\nmean of {len(of_kind)} scenes, {kind}\n{table(means)}")


def controls(training: Iterable[Pair]) -> dict[str, Method]:
    """The controls, tuned on training pairs of held-out photos."""
    views = [split_views(load_pair(pair)) for pair in training if not pair.seen]

    def gain(method: Method) -> float:
        return math.fsum(psnr_and_ssim(method(render, None), photo)[0] for render, photo, _ in views)

    def best(methods: dict[str, Method]) -> tuple[str, Method]:
        return max(methods.items(), key=lambda item: gain(item[1]))

    blur_name, blur = best({f"Gaussian blur, {sigma} px": blurred(sigma) for sigma in SIGMAS})
    mask_name, mask = best({f"unsharp mask, {amount}": unsharp(amount) for amount in AMOUNTS})
    return {
        "render": lambda render, _: render,
        blur_name: blur,
        mask_name: mask,
        "aligned reference": aligned_alone,
    }


def blurred(sigma: float) -> Method:
    """A Gaussian blur of the render."""
    side = 2 * math.ceil(3 * sigma) + 1
    return lambda render, _: gaussian_blur(render, [side, side], [sigma, sigma])


def unsharp(amount: float) -> Method:
    """An unsharp mask of the render, with a blur of one pixel."""
    return lambda render, _: (render + amount * (render - gaussian_blur(render, [7, 7], [1.0, 1.0]))).clamp(0, 1)


def aligned_alone(render: Tensor, reference: Tensor | None) -> Tensor:
    """The reference where it is trusted, and the render elsewhere."""
    if reference is None:
        return render
    return torch.where(reference[:, 3:] > TRUSTED, reference[:, :3], render)


def run(network: DifixPipeline, render: Tensor, reference: Tensor | None) -> Tensor:
    """A network's result."""
    result = network(render, reference, output_type="pt").images
    assert isinstance(result, Tensor)
    return result.float().cpu()


def split_views(views: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Render and photo in three channels, and the reference if there is one."""
    return views[:1, :3], views[1:2, :3], views[2:3] if len(views) > 2 else None


def raw_reference(pair: Pair | None) -> Tensor | None:
    """The reference of a pair in three channels."""
    return None if pair is None else split_views(load_pair(pair))[2]


def scenes_of(file: Path) -> dict[str, str]:
    """The scene of each test pair."""
    entries = json.loads(file.read_text())["test"]
    return {name: entry["how"]["scene"] for name, entry in entries.items()}


def partition(given: str) -> tuple[str, str, str]:
    """NAME, = and FOLDER."""
    return given.partition("=")


def mean(rows: list[list[float]]) -> list[float]:
    """Column means."""
    return [math.fsum(column) / len(column) for column in zip(*rows, strict=True)]


def table(by_method: dict[str, list[list[float]]]) -> str:
    """A Markdown table of the means."""
    lines = ["| | PSNR | SSIM | VGG |", "|---|---|---|---|"]
    for name, rows in by_method.items():
        psnr, ssim, *vgg = mean(rows)
        lines.append(f"| {name} | {psnr:.2f} | {ssim:.4f} | {f'{vgg[0]:.3f}' if vgg else ''} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with torch.no_grad():
        main(tyro.cli(Options, description=__doc__))
