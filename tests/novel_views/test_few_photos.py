"""Which numbers of photos are few."""

from __future__ import annotations

import pytest

from difix3d_ns.novel_views.few_photos import are_few


@pytest.mark.parametrize(
    ("setting", "num_photos", "few"),
    [("auto", 12, True), ("auto", 13, False), ("yes", 200, True), ("no", 3, False)],
)
def test_up_to_twelve_photos_are_few_unless_set_otherwise(setting, num_photos: int, few: bool) -> None:
    assert are_few(setting, num_photos) == few
