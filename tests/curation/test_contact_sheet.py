"""Which pairs a contact sheet shows, and how they are laid out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from difix3d_ns.curation.contact_sheet import NUM_ROWS, chosen_rows, draw_contact_sheet


def test_rows_are_chosen_evenly_from_strategies_and_steps(make_pairs) -> None:
    pairs = {**make_pairs("sparse", 40), **make_pairs("underfit", 30, steps=(25, 50, 75)), **make_pairs("cycle", 2)}
    rows = chosen_rows(pairs, 12)
    assert len(rows) == len(set(rows)) == 12
    assert Counter(pairs[row]["how"]["strategy"] for row in rows) == {"sparse": 5, "underfit": 5, "cycle": 2}
    assert {pairs[row]["how"]["step"] for row in rows if "underfit" in row} == {25, 50, 75}


def test_all_of_a_few_pairs_are_shown(make_pairs) -> None:
    pairs = make_pairs("sparse", 3)
    assert chosen_rows(pairs, 12) == list(pairs)


def test_pictures_of_any_size_fit_into_three_columns(make_pairs, tmp_path: Path) -> None:
    pairs = {**make_pairs("sparse", 20, size=(1600, 200)), **make_pairs("cycle", 20, size=(30, 90))}
    sheet = draw_contact_sheet("scene", pairs, tmp_path)
    red = (np.asarray(sheet) == (255, 0, 0)).all(axis=-1)
    columns = np.flatnonzero(np.diff(red.any(axis=0).astype(int), prepend=0) == 1)
    rows = np.flatnonzero(np.diff(red.any(axis=1).astype(int), prepend=0) == 1)
    assert len(columns) == 3 and len(rows) == NUM_ROWS
