"""The files that a fix writes, and those that it removes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pseudo_views.made_sets import assert_same_views, pseudo_view_set, restored_bank, saved_bank

from difix3d_ns.pseudo_views.files import INDEX_NAME, saved_sets


@pytest.mark.parametrize("files_written", [0, 1, 3, 5])
def test_a_run_killed_while_it_saves_resumes_from_the_set_before(tmp_path: Path, files_written: int) -> None:
    bank = saved_bank(tmp_path, 100)
    # A process of its own and no fork, which would copy the locks of this one's threads.
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    code = f"from pseudo_views.test_writer import save_and_be_killed as save; save({str(tmp_path)!r}, {files_written})"
    child = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, check=False)
    assert child.returncode == 9
    restored = restored_bank(tmp_path, last_step=250)
    assert restored.step == 100
    assert_same_views(bank, restored)
    restored.add(pseudo_view_set(200), tmp_path)
    assert restored_bank(tmp_path, last_step=250).step == 200
    assert not list(tmp_path.glob(".*"))


def save_and_be_killed(folder: str, files_written: int) -> None:
    """Adds a set to a bank and ends this process in the middle, see `_exit_after`."""
    bank = restored_bank(Path(folder), last_step=250)
    _exit_after(files_written)
    bank.add(pseudo_view_set(200), Path(folder))


def _exit_after(files_written: int) -> None:
    """Ends this process, as a kill would, after some files, before it writes another or moves the set into place."""
    left = [files_written]

    def counted(action):
        def act(*args, **kwargs):
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return action(*args, **kwargs)

        return act

    Image.Image.save = counted(Image.Image.save)
    Path.write_text = counted(Path.write_text)
    Path.rename = counted(Path.rename)


def test_old_sets_later_sets_and_unfinished_sets_are_removed(tmp_path: Path) -> None:
    saved_bank(tmp_path, *range(1, 6), sets_kept=3)
    assert [path.name[-1] for path in saved_sets(tmp_path)] == ["3", "4", "5"]
    (tmp_path / ".step-000000004.unfinished").mkdir()
    bank = restored_bank(tmp_path, last_step=3)
    bank.add(pseudo_view_set(4), tmp_path)
    assert [path.name[-1] for path in saved_sets(tmp_path)] == ["3", "4"]
    assert not list(tmp_path.glob(".*"))


def test_a_rejected_view_is_kept_for_inspection_with_its_reason(tmp_path: Path) -> None:
    saved_bank(tmp_path, 400, rejected=(0,))
    (saved,) = saved_sets(tmp_path)
    (entry,) = json.loads((saved / INDEX_NAME).read_text())["rejected"]
    assert entry["reasons"] == ["NaN"]
    (rejected,) = pseudo_view_set(400, rejected=(0,)).rejected
    for name in ("fixed", "render"):
        file = tmp_path / "rejected" / f"step-000000400-view-0000-{name}.png"
        assert (saved / entry[name]).resolve() == file.resolve()
        assert np.array_equal(np.array(Image.open(file)), getattr(rejected, name).numpy())
    assert not (saved / "view-0000.png").exists()


def test_images_of_rejected_views_are_removed_with_their_set(tmp_path: Path) -> None:
    saved_bank(tmp_path, 1, 2, 3, rejected=(0,), sets_kept=2)
    steps = {path.name[5:14] for path in (tmp_path / "rejected").iterdir()}
    assert steps == {"000000002", "000000003"}
