"""Makes a split of a scene whose training photos are all on one side, for measuring what is seen from the other side:

python tests/benchmarks/one_sided_split.py --split SCENE/transforms_biased6.json --num-photos 16 --num-held-out 12 \
    --output-dir SPLITS

The photos are ordered by their distance from the training photos of the given split. The nearest ones are trained on,
and the farthest ones are held out. The new `SPLITS/SCENE/transforms_sideK.json` and a link to the photos are a scene of
their own, for `ns-train` and `progressive.py`. Its start points are those that COLMAP matched between two training
photos. If the scene has no `colmap/sparse/0`, they are all points that lie inside the images of two training photos:
some of them were then found in held-out photos only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open3d
import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.utils.colmap_parsing_utils import read_images_binary, read_points3D_binary

from difix3d_ns.fixing.references import seen_points

INTRINSICS = {"fx": "fl_x", "fy": "fl_y", "cx": "cx", "cy": "cy", "width": "w", "height": "h"}
"""The names of nerfstudio's cameras, and those in the transforms JSON."""


@dataclass
class SplitConfig:
    """Which split to make."""

    split: Path
    """A transforms file that names training photos on one side of the scene. All photos are in `transforms.json` beside
    it."""
    num_photos: int
    """How many photos to train on."""
    num_held_out: int
    """How many photos to hold out."""
    output_dir: Path
    """Folder for the new scenes, which have the names of the given ones."""


def order_by_distance(content: dict[str, Any], near: list[str]) -> list[str]:
    """The names of all photos, by the distance of their cameras from the mean of the given ones, nearest first."""
    centers = {frame["file_path"]: np.array(frame["transform_matrix"])[:3, 3] for frame in content["frames"]}
    middle = np.mean([centers[name] for name in near], axis=0)
    return sorted(centers, key=lambda name: (float(np.linalg.norm(centers[name] - middle)), name))


def cameras_of(content: dict[str, Any], names: list[str]) -> Cameras:
    """The cameras of some photos in the frame of the transforms file, without distortion."""
    frames = {frame["file_path"]: frame for frame in content["frames"]}
    values = {
        ours: torch.tensor([[frames[name].get(theirs, content.get(theirs))] for name in names])
        for ours, theirs in INTRINSICS.items()
    }
    poses = torch.tensor([frames[name]["transform_matrix"] for name in names])[:, :3].float()
    return Cameras(camera_to_worlds=poses, **values)


def matched_points(model: Path, train: list[str], transform: np.ndarray) -> open3d.geometry.PointCloud:
    """The points of a COLMAP model that at least two training photos show, in the frame of the transforms file."""
    names = {Path(photo).name for photo in train}
    ids = {index for index, image in read_images_binary(model / "images.bin").items() if image.name in names}
    points = read_points3D_binary(model / "points3D.bin").values()
    chosen = [point for point in points if len(ids & set(point.image_ids.tolist())) >= 2]
    cloud = open3d.geometry.PointCloud()
    positions = np.array([point.xyz for point in chosen]) @ transform[:, :3].T + transform[:, 3]
    cloud.points = open3d.utility.Vector3dVector(positions)
    cloud.colors = open3d.utility.Vector3dVector(np.array([point.rgb for point in chosen]) / 255)
    return cloud


def points_inside(content: dict[str, Any], file: Path, train: list[str]) -> open3d.geometry.PointCloud:
    """The points of a file that lie inside the images of at least two training photos."""
    cloud = open3d.io.read_point_cloud(str(file))
    seen = seen_points(cameras_of(content, train), torch.from_numpy(np.asarray(cloud.points)).float())
    return cloud.select_by_index((seen.sum(dim=0) >= 2).nonzero().flatten().tolist())


def make_split(config: SplitConfig) -> Path:
    """Makes the split and returns its transforms file.

    Raises:
        SystemExit: the scene has too few photos.
    """
    scene = config.split.resolve().parent
    content = json.loads((scene / "transforms.json").read_text())
    order = order_by_distance(content, json.loads(config.split.read_text())["train_filenames"])
    if config.num_photos + config.num_held_out > len(order):
        raise SystemExit(f"{scene} has {len(order)} photos: give smaller numbers of them.")
    train, held_out = order[: config.num_photos], order[len(order) - config.num_held_out :]

    folder = config.output_dir / scene.name
    folder.mkdir(parents=True, exist_ok=True)
    for name in {Path(photo).parts[0] for photo in order} | {"transforms.json", content["ply_file_path"]}:
        if not (folder / name).exists():
            (folder / name).symlink_to(scene / name)
    model = scene / "colmap" / "sparse" / "0"
    if model.is_dir():
        points = matched_points(model, train, np.array(content.get("applied_transform", np.eye(4)))[:3])
    else:
        points = points_inside(content, scene / content["ply_file_path"], train)
    name = f"side{config.num_photos}"
    open3d.io.write_point_cloud(str(folder / f"sparse_pc_{name}.ply"), points)
    content |= {"ply_file_path": f"sparse_pc_{name}.ply", "train_filenames": train}
    content |= {"val_filenames": held_out, "test_filenames": held_out}
    file = folder / f"transforms_{name}.json"
    file.write_text(json.dumps(content, indent=1))
    return file


if __name__ == "__main__":
    print(make_split(tyro.cli(SplitConfig, description=__doc__)))
