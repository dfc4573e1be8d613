"""Makes the page of an evaluation: sliders between render, enhanced render and photo, and the metrics of each view.

The page is one HTML file that opens without a server and loads only the images beside it.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from difix3d_ns.evaluation.views import ENHANCED, KINDS, PHOTO, RAW

METRICS: tuple[dict[str, Any], ...] = (
    {"name": "psnr", "label": "PSNR (dB)", "digits": 2, "direction": "higher", "arrow": "\N{UPWARDS ARROW}"},
    {"name": "ssim", "label": "SSIM", "digits": 3, "direction": "higher", "arrow": "\N{UPWARDS ARROW}"},
    {"name": "lpips", "label": "LPIPS", "digits": 3, "direction": "lower", "arrow": "\N{DOWNWARDS ARROW}"},
)
BAR_HEIGHT = 46.0
"""Height of the longest bar in the chart of gains, in the chart's units; the chart is 50 high above and below zero."""


def page_of(report: Mapping[str, Any]) -> str:
    """The page as HTML, in UTF-8.

    Args:
        report: the content of `metrics.json`; its paths are relative to the page.
    """
    environment = Environment(
        loader=PackageLoader("difix3d_ns.evaluation", "page_template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # These files of the package are inserted unchanged; everything else is escaped.
    style, script = (environment.loader.get_source(environment, name)[0] for name in ("page.css", "page.js"))  # type: ignore[union-attr]
    views = report["views"]
    measured = [kind for kind in KINDS if kind in report["mean"]]
    kinds = [kind for kind in KINDS if kind in views[0]["files"]]
    gains = _bars(views) if ENHANCED in measured else []
    video = report["flicker"]
    frames = {} if video is None else {kind: [url_of(file) for file in files] for kind, files in video["files"].items()}
    environment.globals.update(url=url_of, better=_is_better, shown=_shown, order=_order)
    page = environment.get_template("page.html").render(
        report=report,
        kinds=kinds,
        measured=measured,
        metrics=[metric for metric in METRICS if metric["name"] in report["mean"][RAW]],
        left=RAW,
        right=ENHANCED if ENHANCED in kinds else PHOTO,
        gains=gains,
        num_better=sum(bar["gain"] >= 0 for bar in gains),
        tallest=max((abs(bar["gain"]) for bar in gains), default=0.0),
        frames=frames,
        first_frame={} if video is None else {kind: files[0] for kind, files in video["files"].items()},
        style=Markup(style),
        script=Markup(script),
        style_hash=_content_hash(style),
        script_hash=_content_hash(script),
    )
    # A file name may contain bytes that are not valid text.
    return page.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def url_of(file: str) -> str:
    """The URL of a path relative to the page; every possible file name is escaped."""
    return quote(os.fsencode(file))


def _content_hash(text: str) -> str:
    """The hash that allows exactly this style or script in the page's content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _bars(views: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A bar for the PSNR gain of each view, scaled to the chart; an empty list if no gain is known."""
    gains = [(view["name"], _gain(view)) for view in views]
    known = [abs(gain) for _, gain in gains if gain is not None]
    scale = BAR_HEIGHT / max(max(known, default=0.0), 1e-6)
    bars = []
    for name, gain in gains:
        height = 0.0 if gain is None else max(abs(gain) * scale, 0.5)
        label = f"{name}: no figure" if gain is None else f"{name}: {gain:+.2f} dB"
        bars.append({"gain": gain or 0.0, "height": round(height, 2), "label": label, "y": 0.0})
        if gain is not None and gain >= 0:
            bars[-1]["y"] = -round(height, 2)
    return bars if known else []


def _gain(view: Mapping[str, Any]) -> float | None:
    """PSNR gained by enhancing, in dB; None if a PSNR is infinite or the view was not enhanced."""
    before, after = view[RAW]["psnr"], view.get(ENHANCED, {}).get("psnr")
    return None if before is None or after is None else after - before


def _order(view: Mapping[str, Any], key: str) -> float:
    """Sort key of a view; a render or gain without a finite value comes after all others."""
    value = _gain(view) if key == "gain" else view[RAW]["psnr"]
    return 1e6 if value is None else round(value, 6)


def _is_better(values: Mapping[str, Any], kind: str, metric: Mapping[str, Any]) -> bool:
    """Whether `kind`, raw or enhanced, has the better value of the two; False if there is no enhanced image."""
    if ENHANCED not in values:
        return False
    own, other = (values[name][metric["name"]] for name in (kind, RAW if kind == ENHANCED else ENHANCED))
    own, other = (math.inf if value is None else value for value in (own, other))
    return own > other if metric["direction"] == "higher" else own < other


def _shown(value: float | None, metric: Mapping[str, Any]) -> str:
    return "\N{INFINITY}" if value is None else f"{value:.{metric['digits']}f}"
