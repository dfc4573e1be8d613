"""nerfstudio's viewer in a browser: its scene and the fields of its panels."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from browser import Page, start_chromium

WINDOW = (1280, 1250)


def field(label: str) -> str:
    """JavaScript that finds the input of a label in the viewer's panels."""
    return (
        f"[...document.querySelectorAll('label')].find(e => e.textContent.trim() == {json.dumps(label)})"
        "?.closest('.mantine-Flex-root')?.querySelector('input')"
    )


def button(text: str) -> str:
    """JavaScript that finds a button by its text."""
    return f"[...document.querySelectorAll('button')].find(e => e.textContent.trim() == {json.dumps(text)})"


class ViewerPage(Page):
    """An open page of the viewer."""

    def zoom_out(self, x: float, y: float, notches: int = 1) -> None:
        """Zooms out by turning the mouse wheel at a point; in with a negative number of notches."""
        for _ in range(abs(notches)):
            turn = 1000 if notches > 0 else -1000
            self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=turn)
            time.sleep(0.05)

    def write(self, label: str, text: str) -> None:
        """Replaces the text of a field by its label."""
        self.click_on(field(label))
        self.evaluate(f"{field(label)}.select()")
        self.call("Input.insertText", text=text)

    def switch(self, label: str, on: bool) -> None:
        """Sets a checkbox, found by its label. It tries again, because a click may be lost while a dropdown closes."""

        def is_so() -> bool:
            if self.evaluate(f"{field(label)}.checked") is not on:
                self.click_on(field(label))
                time.sleep(1)
            return self.evaluate(f"{field(label)}.checked") is on

        self.wait(is_so, 60, f"{label} to be {'on' if on else 'off'}")

    def choose(self, label: str, option: str) -> None:
        """Chooses an option of a dropdown by its label."""
        self.click_on(field(label))
        options = "[...document.querySelectorAll('[role=option]')]"
        shown = f"{options}.find(e => e.checkVisibility() && e.textContent == {json.dumps(option)})"
        self.wait(lambda: self.evaluate(f"!!({shown})"), 10, f"the option {option}")
        self.click_on(shown)


@contextmanager
def open_viewer(chromium: str, address: str, profile: Path) -> Iterator[ViewerPage]:
    """Opens the viewer in a new browser, which is closed with the context.

    Args:
        chromium: the program.
        address: address of the viewer, such as http://127.0.0.1:7007.
        profile: a new folder for the browser's files.
    """
    with start_chromium(chromium, profile, WINDOW) as connection:
        page = ViewerPage(connection)
        page.open(address)
        yield page
