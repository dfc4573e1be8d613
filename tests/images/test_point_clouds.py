"""Start points in PLY files: the same as open3d reads, from every form of file, and what is said about damaged ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParser
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.dataparsers.scannet_dataparser import ScanNetDataParserConfig
from scenes_of_photos import BANANA

from difix3d_ns.curation.start_points import StartPoints
from difix3d_ns.errors import Difix3DError
from difix3d_ns.images.dataparsers import extended
from difix3d_ns.images.point_clouds import PointCloud, read_point_cloud, write_point_cloud

NAMES = {"<f4": "float", "<f8": "double", "u1": "uchar", "<u2": "ushort", "<i4": "int32"}
NUM_POINTS = 20


def make_ply(
    file: Path,
    form: str = "binary_little_endian",
    position: str = "<f4",
    color: str | None = "u1",
    before: str = "",
    more: str = "",
    normals: bool = False,
) -> Path:
    """Writes a PLY file of random points.

    Args:
        file: where it is written.
        form: the form of its tables.
        position: NumPy's name of the number format of positions.
        color: that of colours; None for none.
        before: lines of the header before the vertices.
        more: lines of the header after them.
        normals: whether vertices have normals, between positions and colours.
    """
    random = np.random.default_rng(5)
    kinds = [(name, position) for name in "xyz"] + [(f"n{name}", "<f4") for name in "xyz" if normals]
    kinds += [(name, color) for name in ("red", "green", "blue") if color]
    vertices = np.empty(NUM_POINTS, kinds)
    for name, _ in kinds:
        is_color = len(name) > 2
        vertices[name] = random.integers(0, 256, NUM_POINTS) if is_color else 5 * random.normal(size=NUM_POINTS)
    properties = "".join(f"property {NAMES[kind]} {name}\n" for name, kind in kinds)
    header = f"ply\nformat {form} 1.0\ncomment made for a test\n{before}element vertex {NUM_POINTS}\n{properties}{more}"
    if form == "ascii":
        rows = "".join(" ".join(map(str, row)) + "\n" for row in vertices.tolist())
        rows = ("7 8\n" if before else "") + rows + ("3 0 1 2\n" if more else "")
        file.write_text(f"{header}end_header\n{rows}")
        return file
    big = form == "binary_big_endian"
    table = (vertices.byteswap() if big else vertices).tobytes()
    earlier = np.array([7, 8], ">f4" if big else "<f4").tobytes() if before else b""
    later = b"\x03" + np.array([0, 1, 2], ">i4" if big else "<i4").tobytes() if more else b""
    file.write_bytes(f"{header}end_header\n".encode() + earlier + table + later)
    return file


CAMERA = "element camera 1\nproperty float a\nproperty float b\n"
FACES = "element face 1\nproperty list uchar int vertex_indices\n"


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"position": "<f8"},
        {"position": "<i4"},
        {"color": None},
        {"color": "<u2"},
        {"normals": True},
        {"more": FACES},
        {"before": CAMERA},
    ],
    ids=str,
)
def test_a_file_is_read_as_open3d_reads_it(form: str, content: dict, tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d")
    file = make_ply(tmp_path / "points.ply", form, **content)
    expected = open3d.io.read_point_cloud(str(file))
    cloud = read_point_cloud(file)
    assert len(cloud.xyz) == NUM_POINTS and cloud.xyz.dtype == np.float32
    assert np.array_equal(cloud.xyz, np.asarray(expected.points, dtype=np.float32))
    assert np.array_equal(cloud.rgb, (np.asarray(expected.colors) * 255).astype(np.uint8))
    assert len(cloud.rgb) == (0 if content.get("color", "") is None else NUM_POINTS)


@pytest.mark.parametrize("colored", [True, False])
def test_a_written_file_is_read_back_here_and_by_open3d(colored: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    colors = random.integers(0, 256, (NUM_POINTS, 3)).astype(np.uint8) if colored else np.zeros((0, 3), np.uint8)
    cloud = PointCloud(random.normal(size=(NUM_POINTS, 3)).astype(np.float32), colors)
    write_point_cloud(tmp_path / "points.ply", cloud)
    own = read_point_cloud(tmp_path / "points.ply")
    assert np.array_equal(own.xyz, cloud.xyz) and np.array_equal(own.rgb, cloud.rgb)
    open3d = pytest.importorskip("open3d")
    theirs = open3d.io.read_point_cloud(str(tmp_path / "points.ply"))
    assert np.array_equal(np.asarray(theirs.points), cloud.xyz)
    assert np.array_equal(np.round(np.asarray(theirs.colors) * 255), cloud.rgb)


def test_the_points_of_curated_scenes_keep_their_colors(tmp_path: Path) -> None:
    StartPoints(np.eye(3), np.array([[0.0, 0.5, 1.0]] * 3)).write(tmp_path / "points.ply")
    assert read_point_cloud(tmp_path / "points.ply").rgb.tolist() == [[0, 128, 255]] * 3


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian"])
def test_a_file_without_points_is_an_empty_cloud(form: str, tmp_path: Path) -> None:
    header = f"ply\nformat {form} 1.0\nelement vertex 0\nproperty float x\nproperty float y\nproperty float z\n"
    (tmp_path / "points.ply").write_text(f"{header}end_header\n")
    assert read_point_cloud(tmp_path / "points.ply").xyz.shape == (0, 3)


VALID = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "its first line is not `ply`"),
        ("solid model\n", "its first line is not `ply`"),
        ("ply\nformat ascii 1.0\n", "its header has no end"),
        ("ply\nformat\nend_header\n", "its header has the line `format`"),
        (VALID.replace("vertex 1", "vertex many"), "its header has the line `element vertex many`"),
        (VALID.replace("float y", "number y"), "its header has the line `property number y`"),
        (VALID.replace("ascii", "packed"), "its format is `packed`"),
        (VALID.replace("vertex", "edge"), "it has no vertices with x, y and z"),
        (VALID.replace("float z", "float w"), "it has no vertices with x, y and z"),
        (VALID.replace("float z\n", "float z\nproperty list uchar int near\n"), "its vertices contain lists"),
        (VALID, "it ends after 0 of 1 rows"),
        (VALID + "1 2\n", "cannot be read"),
        (VALID + "1 2 three\n", "cannot be read"),
    ],
)
def test_a_damaged_file_ends_in_one_sentence(content: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "points.ply"
    file.write_text(content)
    with pytest.raises(Difix3DError, match=r"the start points .*points\.ply cannot be read") as raised:
        read_point_cloud(file)
    assert reason in str(raised.value) and "put back a whole PLY file" in str(raised.value)


def test_a_binary_file_that_was_cut_off_is_not_read_in_part(tmp_path: Path) -> None:
    file = make_ply(tmp_path / "points.ply")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(Difix3DError, match=f"it ends after 17 of {NUM_POINTS} rows"):
        read_point_cloud(file)


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        (NerfstudioDataParserConfig(), "placed"),
        (BlenderDataParserConfig(scale_factor=0.7), "plain"),
        (ScanNetDataParserConfig(), "colored"),
        (ScanNetDataParserConfig(), "gray"),
    ],
)
def test_dataparsers_place_points_as_nerfstudio_does(config, arguments: str, tmp_path: Path) -> None:
    pytest.importorskip("open3d")
    file = make_ply(tmp_path / "points.ply")
    transform = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0][:3]
    given = {
        "plain": (),
        "placed": (transform, 0.3),
        "colored": (transform, 0.3, True),
        "gray": (transform, 0.3, False),
    }
    found, expected = (load_points(each.setup(), file, *given[arguments]) for each in (extended(config), config))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def load_points(parser: DataParser, *arguments) -> dict[str, torch.Tensor]:
    return parser._load_3D_points(*arguments)  # type: ignore[attr-defined]


def test_a_scene_is_read_without_open3d() -> None:
    code = (
        "import sys; from pathlib import Path; sys.modules['open3d'] = None\n"
        "from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig\n"
        "from difix3d_ns.datamanager import Difix3DDataManager, Difix3DDataManagerConfig\n"
        f"parser = NerfstudioDataParserConfig(data=Path({str(BANANA / 'transforms_biased3.json')!r}))\n"
        "parser.load_3D_points = True\n"
        "manager = Difix3DDataManager(Difix3DDataManagerConfig(dataparser=parser))\n"
        "print(len(manager.train_dataparser_outputs.metadata['points3D_xyz']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "988"
