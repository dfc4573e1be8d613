"""Contact sheets of the benchmark of the progressive update."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

MARGIN = 8
TEXT_HEIGHT = 20
MAX_CELL_SIZE = (1080, 360)
"""Width and height of the box into which a picture is fitted, in pixels."""
WIDTH = 1500
"""Width that the cells of a row fill at most, unless one is wider, in pixels."""


def with_caption(picture: Image.Image, caption: str) -> Image.Image:
    """A picture, made smaller if it is large, below its caption."""
    small = ImageOps.contain(picture, MAX_CELL_SIZE) if _exceeds(picture, MAX_CELL_SIZE) else picture
    cell = Image.new("RGB", (small.width, small.height + TEXT_HEIGHT), "white")
    ImageDraw.Draw(cell).text((0, 2), caption, "black", ImageFont.load_default(13))
    cell.paste(small, (0, TEXT_HEIGHT))
    return cell


def contact_sheet(cells: Sequence[Image.Image], title: str) -> Image.Image:
    """Puts pictures on one sheet, row by row.

    Args:
        cells: at least one picture.
        title: heading of the sheet.
    """
    width, height = (max(getattr(cell, side) for cell in cells) + MARGIN for side in ("width", "height"))
    columns = min(len(cells), max(1, WIDTH // width))
    top = TEXT_HEIGHT + MARGIN
    size = (MARGIN + columns * width, top + math.ceil(len(cells) / columns) * height)
    sheet = Image.new("RGB", size, "white")
    ImageDraw.Draw(sheet).text((MARGIN, 4), title, "black", ImageFont.load_default(15))
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        sheet.paste(cell, (MARGIN + column * width, top + row * height))
    return sheet


def _exceeds(picture: Image.Image, size: tuple[int, int]) -> bool:
    return picture.width > size[0] or picture.height > size[1]
