"""Sentences appear on the console as they are."""

from __future__ import annotations

import pytest

from difix3d_ns.printing import say


def test_brackets_colons_and_long_paths_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = f"The photo /scenes/[old]/:x:/{'a' * 150} b/[/red].png is missing: replace it."
    say(sentence)
    say(sentence, style="bold yellow")
    assert capsys.readouterr().out == f"{sentence}\n{sentence}\n"
