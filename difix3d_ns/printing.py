"""Sentences on the console."""

from __future__ import annotations

from nerfstudio.utils.rich_utils import CONSOLE


def say(sentence: str, style: str | None = None) -> None:
    """Prints a sentence as it is.

    Rich would otherwise leave out `[...]` in the names of files, replace `:x:` by a symbol, and break lines, so that
    paths and commands could not be copied.

    Args:
        sentence: what to print.
        style: a style of rich, such as `bold yellow`.
    """
    CONSOLE.print(sentence, style=style, markup=False, emoji=False, soft_wrap=True)
