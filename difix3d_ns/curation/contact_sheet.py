"""Draws contact sheets, which show some of the pairs of a scene."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from difix3d_ns.curation.pairs import Pairs

NUM_ROWS = 12
CELL_SIZE = (300, 220)
"""Width and height of the box into which each image is fitted, in pixels."""
MARGIN = 8
MIN_WIDTH = 640
"""Minimum width of the sheet in pixels, so that the captions fit even if the images are narrow."""
TEXT_HEIGHT = 20
COLUMNS = {"image": "render", "target_image": "photo (target)", "ref_image": "reference"}
"""The images of a pair and their headings, from left to right."""


def draw_contact_sheet(title: str, pairs: Pairs, folder: Path) -> Image.Image:
    """Draws some of the pairs, one per row: render, photo, reference, and a caption on how the render was made.

    Args:
        title: heading of the sheet.
        pairs: at least one pair, all of one scene.
        folder: the folder that the pairs' paths are relative to.
    """
    rows = chosen_rows(pairs, NUM_ROWS)
    pictures = [[_thumbnail(folder / pairs[name][key]) for key in COLUMNS] for name in rows]
    heights = [TEXT_HEIGHT + max(picture.height for picture in row) + MARGIN for row in pictures]
    widths = [max(row[column].width for row in pictures) + MARGIN for column in range(len(COLUMNS))]
    top = 2 * TEXT_HEIGHT + MARGIN
    sheet = Image.new("RGB", (max(MARGIN + sum(widths), MIN_WIDTH), top + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 4), f"{title}: {len(rows)} of {len(pairs)} pairs", "black", ImageFont.load_default(15))
    font = ImageFont.load_default(13)
    lefts = [MARGIN + sum(widths[:column]) for column in range(len(COLUMNS))]
    for left, heading in zip(lefts, COLUMNS.values(), strict=True):
        draw.text((left, TEXT_HEIGHT + 4), heading, "gray", font)
    for name, row, height in zip(rows, pictures, heights, strict=True):
        draw.text((MARGIN, top), _caption(pairs[name]["how"], name), "black", font)
        for left, picture in zip(lefts, row, strict=True):
            sheet.paste(picture, (left, top + TEXT_HEIGHT))
        top += height
    return sheet


def chosen_rows(pairs: Pairs, count: int) -> list[str]:
    """Chooses at most `count` pairs, evenly from all strategies and, within a strategy, from all steps.

    Args:
        pairs: pairs with `how`.
        count: maximum number of pairs.

    Returns:
        Ids of the pairs, sorted by strategy and step.
    """
    by_strategy: defaultdict[str, list[str]] = defaultdict(list)
    for name, entry in sorted(pairs.items(), key=lambda pair: (pair[1]["how"]["step"], pair[0])):
        by_strategy[entry["how"]["strategy"]].append(name)
    chosen: list[str] = []
    # Strategies with few pairs come first, so that the others can use the rows they leave.
    left = count
    for index, names in enumerate(sorted(by_strategy.values(), key=len)):
        share = min(len(names), left // (len(by_strategy) - index))
        chosen += [names[(2 * row + 1) * len(names) // (2 * share)] for row in range(share)]
        left -= share
    return sorted(chosen, key=lambda name: (pairs[name]["how"]["strategy"], pairs[name]["how"]["step"], name))


def _thumbnail(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return ImageOps.contain(picture.convert("RGB"), CELL_SIZE)


def _caption(how: Mapping[str, Any], name: str) -> str:
    photo = name.removeprefix(f"{how['scene']}-{how['strategy']}-").removesuffix(f"-{how['step']}")
    seen = "trained on it" if how["trained_on_this_photo"] else "held out"
    training = f"step {how['step']} of {how['whole_training']}, {how['training_photos']} training photos"
    return f"{how['strategy']}: {training} | {photo}, {seen} | reference {how['reference_distance']:.2f} away"
