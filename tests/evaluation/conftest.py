"""Folders of images, and a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import PROGRAMS, Page, find_chromium, start_chromium
from PIL import Image

WINDOW = (1200, 900)

PaintFolder = Callable[..., Path]


@pytest.fixture
def paint(tmp_path: Path) -> PaintFolder:
    """Makes a folder of images of one colour each: paint("renders", {"a": (255, 0, 0)}, size=(64, 48))."""

    def make(
        folder: str, pictures: dict[str, tuple[int, int, int]], size: tuple[int, int] = (64, 48), suffix: str = ".png"
    ) -> Path:
        for name, color in pictures.items():
            file = tmp_path / folder / f"{name}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, color).save(file)
        return tmp_path / folder

    return make


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page in a headless Chromium; tests that need it are skipped if it is not installed."""
    program = find_chromium()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} is installed")
    with start_chromium(program, tmp_path_factory.mktemp("profile"), WINDOW) as connection:
        yield Page(connection)
