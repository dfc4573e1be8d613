"""Draws the PSNR of two settings on each split that `progressive.py` measured, next to each other. Run by hand:

python tests/benchmarks/few_photos_figure.py --results few/results.json --before splatfacto --after ours-embedded \
    --output .docs/few_photos.png
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that the other files can be imported from `benchmarks`

from benchmarks.progressive_report import Means, mean_of_scenes, means

GAIN, LOSS = "#3c78b4", "#c0392b"


@dataclass
class FigureConfig:
    """What to draw."""

    results: Path
    """The `results.json` of `progressive.py`."""
    output: Path
    """The PNG to write."""
    before: str = "splatfacto"
    """The setting that is compared with, as it is named in the results."""
    after: str = "ours-embedded"
    """The setting that is to be better."""
    titles: tuple[str, str] = ("splatfacto", "difix3d-mini")
    """What the legend calls the two settings."""


def pairs(results: Means, before: str, after: str) -> list[tuple[str, float, float]]:
    """Scene, PSNR before and PSNR after of all scenes that have both settings, the largest gain first."""
    found = [
        (scene, row[before]["psnr"], row[after]["psnr"])
        for scene, row in results.items()
        if {before, after} <= row.keys()
    ]
    return sorted(found, key=lambda pair: pair[1] - pair[2])


def draw(results: Means, before: str, after: str, titles: tuple[str, str], file: Path) -> None:
    """Draws both settings of every scene, joined by a line in blue where PSNR rises and in red where it falls.

    Raises:
        SystemExit: no scene has both settings.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = pairs(results, before, after)
    if not found:
        raise SystemExit(f"no scene was measured with both {before} and {after}.")
    figure, axis = plt.subplots(figsize=(8, 0.24 * len(found) + 1.2), layout="constrained")
    for row, (_, low, high) in enumerate(found):
        axis.plot([low, high], [row, row], color=GAIN if high >= low else LOSS, linewidth=1.5, zorder=1)
    rows = range(len(found))
    axis.scatter([pair[1] for pair in found], rows, s=26, color="white", edgecolors="#555555", label=titles[0])
    axis.scatter([pair[2] for pair in found], rows, s=30, color=GAIN, label=titles[1], zorder=2)
    axis.set_yticks(rows, [pair[0] for pair in found], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("PSNR of held-out photos (dB)")
    axis.grid(axis="x", color="#dddddd", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    mean = mean_of_scenes(results, [pair[0] for pair in found])
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    axis.set_title(f"mean: {mean[before]['psnr']:.2f} dB → {mean[after]['psnr']:.2f} dB", fontsize=10)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def main(config: FigureConfig) -> None:
    """Draws the figure."""
    if not config.results.is_file():
        raise SystemExit(f"no such file: {config.results}.")
    draw(means(json.loads(config.results.read_text())), config.before, config.after, config.titles, config.output)


if __name__ == "__main__":
    main(tyro.cli(FigureConfig))
