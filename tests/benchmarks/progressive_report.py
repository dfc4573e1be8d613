"""Reports the benchmark of the progressive update: means and spreads over seeds, tables and failed expectations."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.progressive_figure import draw_figure

Metrics = dict[str, float]
Results = dict[str, dict[str, dict[str, Metrics]]]
"""Metrics by scene, by setting, such as `ours-oracle`, and by seed."""
Means = dict[str, dict[str, Metrics]]
"""Means over the seeds by scene and by setting; with several seeds, also standard deviations, such as `psnr_std`."""
SCHEDULED = (
    *("none", "published-identity", "ours-identity"),
    *("published-embedded", "ours-embedded", "published-oracle", "ours-oracle"),
)
"""Schedules and fixers, in the order of the table's columns. Variants follow."""
TITLES = {
    "none": "no fixes",
    "published-identity": "published, identity",
    "ours-identity": "ours, identity",
    "published-embedded": "published, embedded",
    "ours-embedded": "ours, embedded",
    "published-oracle": "published, oracle",
    "ours-oracle": "ours, oracle",
}
BASELINES = ("none", "ours-identity", "ours-embedded")
"""Settings that all others are compared with."""
COVERED, ENHANCED = "_covered", "_enhanced"
"""Suffixes of the metrics over covered pixels and of enhanced renders."""


def title_of(setting: str) -> str:
    """What the table calls a setting."""
    return TITLES.get(setting, setting)


def means(results: Results) -> Means:
    """Means over the seeds and, with several seeds, standard deviations with the suffix `_std`."""
    return {
        scene: {setting: _mean(by_seed.values()) for setting, by_seed in row.items()} for scene, row in results.items()
    }


def gains(results: Results, baseline: str) -> Means:
    """What each setting gains over another one, as means and standard deviations over the seeds that both have.

    Args:
        results: the metrics of all runs.
        baseline: the setting to compare with; scenes without it are left out.
    """
    found: Means = {}
    for scene, row in results.items():
        base = row.get(baseline, {})
        for setting, by_seed in row.items():
            if setting != baseline and (seeds := by_seed.keys() & base.keys()):
                runs = [_difference(by_seed[seed], base[seed]) for seed in sorted(seeds)]
                found.setdefault(scene, {})[setting] = _mean(runs)
    return found


def mean_of_scenes(results: Means, scenes: Iterable[str] | None = None) -> dict[str, Metrics]:
    """Means over scenes by setting, also of the standard deviations.

    Args:
        results: means by scene and setting.
        scenes: the scenes to average over; all if None. A setting is averaged over those that it has.
    """
    rows = [results[scene] for scene in (results if scenes is None else scenes)]
    return {setting: _average([row[setting] for row in rows if setting in row]) for setting in settings_in(rows)}


def settings_in(rows: Iterable[dict[str, Metrics]]) -> list[str]:
    """The settings of some scenes, in the order of the table's columns."""
    measured = dict.fromkeys(setting for row in rows for setting in row)
    return [s for s in SCHEDULED if s in measured] + [s for s in measured if s not in SCHEDULED]


def _difference(run: Metrics, base: Metrics) -> Metrics:
    return {name: run[name] - base[name] for name in run if name in base}


def _average(runs: list[Metrics]) -> Metrics:
    return {name: statistics.fmean(run[name] for run in runs) for name in runs[0] if all(name in run for run in runs)}


def _mean(of_seeds: Iterable[Metrics]) -> Metrics:
    runs = list(of_seeds)
    mean = _average(runs)
    if len(runs) > 1:
        mean |= {f"{name}_std": statistics.stdev(run[name] for run in runs) for name in mean}
    return mean


def table(results: Means, suffix: str = "", show: Callable[[Metrics | None, str], str] | None = None) -> str:
    """A markdown table with a row for each scene, by default with PSNR (dB) / SSIM / LPIPS in each cell.

    With several scenes, the last row has the means over the scenes that have all columns.

    Args:
        results: means by scene and setting; with several seeds, PSNR is followed by its standard deviation.
        suffix: `COVERED` or `ENHANCED`, or nothing for whole raw renders; settings without these metrics are left out.
        show: the text of a cell, empty without metrics; `cell` if None.
    """
    show = show or cell
    measured = {
        scene: {setting: metrics for setting, metrics in row.items() if show(metrics, suffix)}
        for scene, row in results.items()
    }
    settings = settings_in(measured.values())
    lines = [
        "| scene | " + " | ".join(map(title_of, settings)) + " |",
        "|---" * (len(settings) + 1) + "|",
    ]
    rows = {_scene_title(scene, row, suffix): row for scene, row in measured.items() if row}
    complete = [scene for scene, row in measured.items() if len(row) == len(settings)]
    if settings and complete and len(measured) > 1:
        rows[f"mean of {len(complete)}"] = mean_of_scenes(measured, complete)
    for scene, row in rows.items():
        lines.append(f"| {scene} | " + " | ".join(show(row.get(setting), suffix) for setting in settings) + " |")
    return "\n".join(lines) + "\n"


def _scene_title(scene: str, row: dict[str, Metrics], suffix: str) -> str:
    shares = [metrics["share_covered"] for metrics in row.values() if "share_covered" in metrics]
    return f"{scene} ({shares[0]:.0%})" if suffix == COVERED and shares else scene


def cell(metrics: Metrics | None, suffix: str = "") -> str:
    """PSNR / SSIM / LPIPS of one or several runs, without LPIPS over covered pixels; empty if there are none.

    A missing LPIPS is `-`.
    """
    if metrics is None or f"psnr{suffix}" not in metrics:
        return ""
    psnr = f"{metrics[f'psnr{suffix}']:.2f}"
    if f"psnr{suffix}_std" in metrics:
        psnr += f" ± {metrics[f'psnr{suffix}_std']:.2f}"
    parts = [psnr, f"{metrics[f'ssim{suffix}']:.3f}"]
    if suffix != COVERED:
        parts.append(f"{metrics[f'lpips{suffix}']:.3f}" if f"lpips{suffix}" in metrics else "-")
    return " / ".join(parts)


def perceptual_cell(metrics: Metrics | None, suffix: str = "") -> str:
    """The VGG perceptual distance of raw / enhanced renders of one or several runs; empty if it was not measured."""
    found = metrics or {}
    return " / ".join(f"{found[name]:.3f}" for name in ("vgg", f"vgg{ENHANCED}") if name in found)


def gains_table(results: Results, baseline: str) -> str:
    """A markdown table with a row for each setting: what it gains over another one on the mean of the scenes.

    Args:
        results: the metrics of all runs.
        baseline: the setting to compare with.
    """
    by_scene = gains(results, baseline)
    lines = [
        "| setting | scenes | PSNR (dB) | SSIM | covered PSNR (dB) | covered SSIM | PSNR rises on | least PSNR (dB) |",
        "|---" * 8 + "|",
    ]
    for setting, mean in mean_of_scenes(by_scene).items():
        psnr = {scene: row[setting]["psnr"] for scene, row in by_scene.items() if setting in row}
        worst = min(psnr, key=lambda scene: psnr[scene])
        figures = [
            f"{mean[f'{name}{suffix}']:+.{digits}f}" if f"{name}{suffix}" in mean else ""
            for suffix in ("", COVERED)
            for name, digits in (("psnr", 2), ("ssim", 3))
        ]
        rises = sum(gain > 0 for gain in psnr.values())
        cells = [title_of(setting), str(len(psnr)), *figures, str(rises), f"{psnr[worst]:+.2f}, {worst}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def failed_expectations(results: Means, max_loss_db: float = 0.1, max_loss_to_identity_db: float = 0.3) -> list[str]:
    """The scenes on which the progressive update does not meet its expectations.

    Args:
        results: means by scene and setting; missing settings are not judged.
        max_loss_db: largest loss of PSNR allowed for fixes by the embedded network.
        max_loss_to_identity_db: the same against the identity in place of the network.

    Returns:
        A sentence for each scene on which the oracle gains less with our schedule than with the published one, or on
        which the embedded network lowers the PSNR.
    """
    sentences = []
    for scene, row in results.items():
        psnr = {setting: metrics["psnr"] for setting, metrics in row.items()}
        if {"ours-oracle", "published-oracle"} <= psnr.keys() and psnr["ours-oracle"] < psnr["published-oracle"]:
            less = psnr["published-oracle"] - psnr["ours-oracle"]
            sentences.append(f"{scene}: with the oracle, ours is {less:.2f} dB below the published schedule.")
        for baseline, allowed, against in (
            ("none", max_loss_db, ""),
            ("ours-identity", max_loss_to_identity_db, " against the identity"),
        ):
            if {"ours-embedded", baseline} <= psnr.keys() and psnr["ours-embedded"] < psnr[baseline] - allowed:
                less = psnr[baseline] - psnr["ours-embedded"]
                sentences.append(f"{scene}: fixes by the embedded network cost {less:.2f} dB{against}.")
    return sentences


def write_report(results: Results, folder: Path) -> None:
    """Writes `results.json`, `table.md` and `figure.png`."""
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    mean = means(results)
    parts = {
        "Raw renders, whole pictures": table(mean),
        "Raw renders, covered pixels (their share)": table(mean, COVERED),
        "Enhanced renders, whole pictures": table(mean, ENHANCED),
        "VGG perceptual distance of raw / enhanced renders": table(mean, show=perceptual_cell),
    }
    for baseline in BASELINES:
        if gains(results, baseline):
            parts[f"Gained over: {title_of(baseline)}"] = gains_table(results, baseline)
    text = "\n".join(f"{heading}:\n\n{content}" for heading, content in parts.items() if content.count("\n") > 2)
    (folder / "table.md").write_text(text)
    over_none = gains(results, "none")
    settings = {setting: title_of(setting) for setting in settings_in(over_none.values())}
    draw_figure({**over_none, "mean": mean_of_scenes(over_none)}, settings, folder / "figure.png")


def read_results(folder: Path) -> Results:
    """The results of earlier calls; empty if there are none."""
    file = folder / "results.json"
    return json.loads(file.read_text()) if file.exists() else {}
