"""Reports the benchmark of the progressive update: a table, a figure and failed expectations."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

METRICS = ("psnr", "ssim", "lpips")

Metrics = dict[str, float]
Results = dict[str, dict[str, dict[str, Metrics]]]
"""Metrics by scene, by variant, such as `ours-oracle`, and by seed."""
Means = dict[str, dict[str, Metrics]]
"""Means over the seeds by scene and by variant."""
VARIANTS = (
    *("none", "published-identity", "ours-identity"),
    *("published-embedded", "ours-embedded", "published-oracle", "ours-oracle"),
)
"""Schedules and fixers, in the order of the table's columns."""
TITLES = {
    "none": "no fixes",
    "published-identity": "published, identity",
    "ours-identity": "ours, identity",
    "published-embedded": "published, embedded",
    "ours-embedded": "ours, embedded",
    "published-oracle": "published, oracle",
    "ours-oracle": "ours, oracle",
}


def means(results: Results) -> Means:
    """Means over the seeds and, with several seeds, the standard deviation of the PSNR, `psnr_std`."""
    return {
        scene: {variant: _mean(list(by_seed.values())) for variant, by_seed in row.items()}
        for scene, row in results.items()
    }


def _mean(runs: list[Metrics]) -> Metrics:
    mean = {name: statistics.fmean(run[name] for run in runs) for name in runs[0] if all(name in run for run in runs)}
    if len(runs) > 1:
        mean |= {f"{name}_std": statistics.stdev(run[name] for run in runs) for name in mean if name.startswith("psnr")}
    return mean


def table(results: Means, suffix: str = "") -> str:
    """A markdown table with a row for each scene and PSNR (dB) / SSIM / LPIPS in each cell; `-` if LPIPS is missing.

    Args:
        results: means by scene and variant; with several seeds, PSNR is followed by its standard deviation.
        suffix: `_enhanced` for the metrics of enhanced renders; variants without them are left out.
    """
    variants = [v for v in VARIANTS if any(f"psnr{suffix}" in row.get(v, {}) for row in results.values())]
    lines = [
        "| scene | " + " | ".join(TITLES[variant] for variant in variants) + " |",
        "|---" * (len(variants) + 1) + "|",
    ]
    for scene, row in results.items():
        lines.append(f"| {scene} | " + " | ".join(cell(row.get(variant), suffix) for variant in variants) + " |")
    return "\n".join(lines) + "\n"


def cell(metrics: Metrics | None, suffix: str = "") -> str:
    """PSNR / SSIM / LPIPS of one or several runs; empty if there are none."""
    if metrics is None or f"psnr{suffix}" not in metrics:
        return ""
    psnr = f"{metrics[f'psnr{suffix}']:.2f}"
    if f"psnr{suffix}_std" in metrics:
        psnr += f" ± {metrics[f'psnr{suffix}_std']:.2f}"
    lpips = f"{metrics[f'lpips{suffix}']:.3f}" if f"lpips{suffix}" in metrics else "-"
    return f"{psnr} / {metrics[f'ssim{suffix}']:.3f} / {lpips}"


def failed_expectations(results: Means, max_loss_db: float = 0.1) -> list[str]:
    """The scenes on which the progressive update does not meet its expectations.

    Args:
        results: means by scene and variant; missing variants are not judged.
        max_loss_db: largest loss of PSNR allowed for fixes by the embedded network.

    Returns:
        A sentence for each scene on which the oracle gains less with our schedule than with the published one, or on
        which the embedded network lowers the PSNR.
    """
    sentences = []
    for scene, row in results.items():
        psnr = {variant: metrics["psnr"] for variant, metrics in row.items()}
        if {"ours-oracle", "published-oracle"} <= psnr.keys() and psnr["ours-oracle"] < psnr["published-oracle"]:
            less = psnr["published-oracle"] - psnr["ours-oracle"]
            sentences.append(f"{scene}: with the oracle, ours is {less:.2f} dB below the published schedule.")
        if {"ours-embedded", "none"} <= psnr.keys() and psnr["ours-embedded"] < psnr["none"] - max_loss_db:
            less = psnr["none"] - psnr["ours-embedded"]
            sentences.append(f"{scene}: fixes by the embedded network cost {less:.2f} dB.")
    return sentences


def draw_figure(results: Means, file: Path) -> None:
    """Draws the gains in PSNR and SSIM over the run without fixes; scenes without such a run are left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scenes = [scene for scene, row in results.items() if "none" in row]
    variants = [v for v in VARIANTS[1:] if any(v in results[scene] for scene in scenes)]
    shades = ("#dddddd", "#f3cda4", "#b8b8b8", "#e08a3c", "#7f7f7f", "#3c78b4")
    colors = dict(zip(VARIANTS[1:], shades, strict=True))
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for axis, metric, label in zip(axes, ("psnr", "ssim"), ("PSNR gained (dB)", "SSIM gained"), strict=True):
        width = 0.8 / max(1, len(variants))
        for index, variant in enumerate(variants):
            here = [i for i, scene in enumerate(scenes) if variant in results[scene]]
            gains = [results[scenes[i]][variant][metric] - results[scenes[i]]["none"][metric] for i in here]
            middles = [i + (index - (len(variants) - 1) / 2) * width for i in here]
            bars = axis.bar(middles, gains, width, label=TITLES[variant], color=colors[variant])
            axis.bar_label(bars, fmt="%+.1f" if metric == "psnr" else "%+.3f", fontsize=6, padding=1)
        named = [f"{scene}\n{results[scene]['none'][metric]:.2f} without" for scene in scenes]
        axis.set_xticks(range(len(scenes)), named, fontsize=8)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.margins(y=0.12)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def write_report(results: Results, folder: Path) -> None:
    """Writes `results.json`, `table.md` and `figure.png`."""
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    mean = means(results)
    enhanced = table(mean, "_enhanced")
    (folder / "table.md").write_text(f"{table(mean)}\nEnhanced:\n\n{enhanced}")
    draw_figure(mean, folder / "figure.png")


def read_results(folder: Path) -> Results:
    """The results of earlier calls; empty if there are none."""
    file = folder / "results.json"
    return json.loads(file.read_text()) if file.exists() else {}
