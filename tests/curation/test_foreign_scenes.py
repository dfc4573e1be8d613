"""Transforms from untrusted sources: any content is read or refused, and no name leads out of the output folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from damaged_json import damaged_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difix3d_ns.curation.contact_sheet import draw_contact_sheet
from difix3d_ns.curation.jobs import Job
from difix3d_ns.curation.pairs import pair_entry
from difix3d_ns.curation.scenes import read_scene, with_distinct_names
from difix3d_ns.curation.splits import split_for
from difix3d_ns.errors import Difix3DError

STRATEGIES = ("sparse", "cycle", "underfit", "cross-reference")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_transforms_of_any_content_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    known = data.draw(st.sampled_from([{"camera_id": 1}, {}]))
    frames = [{"file_path": f"{name}.png", "w": 4, "fl_x": 2.0, **known} for name in ("a", "../b", "/c/../d")]
    valid = {"frames": frames, "train_filenames": ["a.png"], "ply_file_path": "a.ply"}
    (tmp_path / "transforms.json").write_text(json.dumps(data.draw(damaged_json(valid))))
    try:
        scene = read_scene(tmp_path)
        for strategy in STRATEGIES:
            try:
                split = split_for(strategy, scene, every=2)
            except Difix3DError:
                continue
            assert set(split.train) <= set(scene.photos)
        names = scene.name_of_photo()
    except Difix3DError as error:
        assert "\n" not in str(error)
        return
    assert len(set(names.values())) == len(set(scene.photos))
    assert not [name for name in names.values() if "/" in name or name in ("", ".", "..")]


def test_a_photo_whose_path_is_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [{"file_path": "a.png"}, {"file_path": "/"}]}))
    with pytest.raises(Difix3DError, match="has a frame whose `file_path` / is no file: name its photo there"):
        read_scene(tmp_path)


@pytest.mark.parametrize("file", ["../../evil.png", "/tmp/../evil.png", "a/../../../evil.png"])
def test_photo_names_cannot_lead_out_of_the_folder_of_their_job(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "one" / "scene"
    folder.mkdir(parents=True)
    (folder / "transforms.json").write_text(json.dumps({"frames": [{"file_path": file}, {"file_path": "evil.png"}]}))
    (scene,) = with_distinct_names([read_scene(folder)])
    job_folder = Job(scene, "sparse").folder(tmp_path / "out")
    for name in scene.name_of_photo().values():
        render = job_folder / "renders" / f"{name}-step-1.png"
        assert render.resolve().parent == (tmp_path / "out" / "scene" / "sparse" / "renders").resolve()


def test_pair_names_are_only_text_on_the_contact_sheet(make_pairs, tmp_path: Path) -> None:
    ((_, entry),) = make_pairs("sparse", 1).items()
    picture = tmp_path / "sparse-0.png"
    before = set(tmp_path.parent.rglob("*"))
    sheet = draw_contact_sheet(
        "../../title", {"../../../evil": pair_entry(picture, picture, picture, entry["how"])}, tmp_path
    )
    assert min(sheet.size) > 0 and set(tmp_path.parent.rglob("*")) == before
