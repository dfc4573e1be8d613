"""Draws what the progressive update gains over runs without fixes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

COLORS = {
    "published-identity": "#c9c9c9",
    "ours-identity": "#8c8c8c",
    "published-embedded": "#f3c08a",
    "ours-embedded": "#d9731a",
    "published-oracle": "#a8c4e0",
    "ours-oracle": "#3c78b4",
}
"""Colours of schedules and fixers."""
VARIANT_COLORS = ("#1b9e77", "#7b3fa0", "#e7298a", "#66a61e", "#000000", "#17becf", "#8c564b", "#bcbd22")
PANELS = {
    "psnr": "PSNR gained (dB)",
    "psnr_covered": "PSNR gained on\ncovered pixels (dB)",
    "ssim": "SSIM gained",
    "ssim_covered": "SSIM gained on\ncovered pixels",
}
MAX_SCENES_OF_NARROW_PANEL = 6


def draw_figure(gains: Mapping[str, Mapping[str, Mapping[str, float]]], titles: Mapping[str, str], file: Path) -> None:
    """Draws gains in PSNR and SSIM, of whole pictures and of covered pixels.

    Args:
        gains: gains by scene, setting and metric; lines show the standard deviations, such as `psnr_std`.
        titles: what the legend calls the settings, in the order in which they are drawn.
        file: the PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    others = [setting for setting in titles if setting not in COLORS]
    colors = {**COLORS, **dict(zip(others, itertools.cycle(VARIANT_COLORS), strict=False))}
    scenes = list(gains)
    narrow = len(scenes) <= MAX_SCENES_OF_NARROW_PANEL
    size = (12, 6.5) if narrow else (max(12, 0.5 * len(scenes) + 2), 12)
    figure, axes = plt.subplots(*((2, 2) if narrow else (4, 1)), figsize=size, layout="constrained")
    for axis, (metric, label) in zip(axes.flat, PANELS.items(), strict=True):
        for index, (setting, title) in enumerate(titles.items()):
            shown = [i for i, scene in enumerate(scenes) if metric in gains[scene].get(setting, {})]
            points = [gains[scenes[i]][setting] for i in shown]
            axis.errorbar(
                [i + 0.7 * ((index + 0.5) / len(titles) - 0.5) for i in shown],
                [point[metric] for point in points],
                [point.get(f"{metric}_std", 0.0) for point in points],
                **{"fmt": "o", "markersize": 5, "elinewidth": 1, "color": colors[setting], "label": title},
            )
        axis.axhline(0, color="black", linewidth=0.8)
        for boundary in range(1, len(scenes)):
            axis.axvline(boundary - 0.5, color="#dddddd", linewidth=0.8)
        axis.set_xlim(-0.5, len(scenes) - 0.5)
        names = [scene.replace(" ", "\n") for scene in scenes]
        axis.set_xticks(range(len(scenes)), names, fontsize=8, rotation=0 if narrow else 45)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
    plt.close(figure)
