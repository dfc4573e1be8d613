"""The figure of `scale.py`: time (left) and memory (right) against views, Gaussians and pixels."""

from __future__ import annotations

from pathlib import Path

Results = dict[str, dict[str, float]]

COLORS = ("#3c78b4", "#e08a3c", "#7f7f7f", "#5a9e5a")


def points(results: Results, kind: str, figure: str) -> tuple[list[float], list[float]]:
    """The values of one figure, and the numbers in the measurements' names: views, Gaussians or megapixels."""
    found = sorted(
        (_number(name.removeprefix(f"{kind} ")), figures[figure])
        for name, figures in results.items()
        if name.startswith(f"{kind} ") and figure in figures and not name.endswith(" of 5000")
    )
    return [number for number, _ in found], [value for _, value in found]


def _number(name: str) -> float:
    first = name.split()[0]
    if "x" in first:
        width, height = first.split("x")
        return int(width) * int(height) / 1e6
    return float(first)


def draw_figure(results: Results, file: Path) -> None:
    """Draws all results; panels without measurements stay empty."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = (
        (
            "novel views",
            (
                ("search", "pose_s", "references by pose"),
                ("search", "overlap_s", "references by overlap"),
                ("resume", "restore_s", "bank of a resumed run"),
                ("bank", "draw_s", "one draw"),
            ),
            (
                ("bank", "fix_1_gb", "whole process, peak of a fix"),
                ("bank", "pictures_gb", "images of the fix"),
                ("bank", "held_gb", "held by the bank"),
                ("resume", "set_up_gb", "resumed run, before its first step"),
            ),
        ),
        (
            "Gaussians (640 x 360)",
            (("gaussians", "step_s", "training step"),),
            (("gaussians", "training_gb", "whole process, peak"), ("gaussians", "checkpoint_gb", "checkpoint")),
        ),
        (
            "megapixels (20 000 Gaussians)",
            (("pixels", "step_s", "training step"), ("network", "network_s", "embedded network with reference")),
            (("pixels", "training_gb", "training, peak"), ("network", "network_gb", "network, peak")),
        ),
    )
    results = {
        name: {**figures, "checkpoint_gb": figures.get("checkpoint_mb", 0.0) / 1e3} for name, figures in results.items()
    }
    figure, axes = plt.subplots(3, 2, figsize=(11, 9.6), layout="constrained")
    for (label, times, memories), row in zip(rows, axes, strict=True):
        for axis, curves, unit in ((row[0], times, "seconds"), (row[1], memories, "GB")):
            for color, (kind, name, title) in zip(COLORS, curves, strict=False):
                numbers, values = points(results, kind, name)
                axis.plot(numbers, values, "o-", color=color, label=title, markersize=3.5, linewidth=1.2)
                if numbers:
                    axis.annotate(
                        f"{values[-1]:.2g}", (numbers[-1], values[-1]), (4, 2), textcoords="offset points", fontsize=7
                    )
            axis.set_xlabel(label)
            axis.set_ylabel("seconds, one core" if unit == "seconds" else unit)
            axis.set_xscale("log")
            axis.set_yscale("log" if unit == "seconds" else "linear")
            axis.margins(x=0.1)
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False, fontsize=8)
    banks = [figures for name, figures in results.items() if name.startswith("bank ")]
    if banks:
        axes[0][1].axhline(banks[0]["bound_gb"], color="black", linewidth=0.8, linestyle=":")
        axes[0][1].set_title(f"500 photos and the views at {banks[0]['megapixels']:.2g} megapixels", fontsize=9)
    axes[0][1].set_ylim(bottom=0)
    figure.savefig(file, dpi=100)
    plt.close(figure)
