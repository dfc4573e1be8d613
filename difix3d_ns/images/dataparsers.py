"""nerfstudio's dataparsers, made to read what they stumble over: a missing split, paths of other systems, start points.

nerfstudio reads start points with open3d, which takes seconds to import and is needed for nothing else here.
"""

from __future__ import annotations

from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.blender_dataparser import Blender, BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.minimal_dataparser import MinimalDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio, NerfstudioDataParserConfig
from nerfstudio.data.dataparsers.scannet_dataparser import ScanNet
from torch import Tensor

from difix3d_ns.errors import Difix3DError, warn
from difix3d_ns.files import advice_on_missing_photo, path_here
from difix3d_ns.images.point_clouds import PointCloud, read_point_cloud
from difix3d_ns.images.scene_formats import read_transforms

SPLITS = ("train", "val", "test")
OTHER_HELD_OUT = {"val": "test", "test": "val"}
"""The split that is used in place of a missing one."""


def extended(config: DataParserConfig) -> DataParserConfig:
    """A copy of a dataparser's config, whose dataparser also reads scenes without val or test and paths of Windows.

    It reads start points in PLY files without open3d.

    A run's own config must keep nerfstudio's class, because the class is named in its `config.yml`.
    """
    changed = copy(config)
    if isinstance(config._target, type) and not issubclass(config._target, _WithOtherSplit):
        changed._target = _extended_class(config._target)
    return changed


@cache
def _extended_class(dataparser: type[DataParser]) -> type[DataParser]:
    parts = {Nerfstudio: _OwnNerfstudio, Blender: _OwnBlender, ScanNet: _OwnScanNet}
    bases = tuple(part for kind, part in parts.items() if issubclass(dataparser, kind))
    return type(dataparser.__name__, (_WithOtherSplit, *bases, dataparser), {})


class _WithOtherSplit(DataParser):
    """Reads val if a scene lists photos for training and val but none for test, and the other way round."""

    def get_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        return super().get_dataparser_outputs(split_to_read(self.config, split), **kwargs)


class _OwnNerfstudio(Nerfstudio):
    """Reads backslashes in a transforms JSON as separators of folders, names a missing photo, needs no open3d."""

    def _get_fname(self, filepath: Path, data_dir: Path, *args: Any, **kwargs: Any) -> Path:
        path = path_here(filepath, data_dir)
        is_opened = self.downscale_factor is None and self.config.downscale_factor is None
        if is_opened and not (data_dir / path).exists():
            missing = data_dir / path
            raise Difix3DError(
                f"the scene {self.config.data} cannot be read, because the photo {missing} is missing: "
                f"{advice_on_missing_photo(missing, data_dir)}."
            )
        return super()._get_fname(path, data_dir, *args, **kwargs)

    def _load_3D_points(  # noqa: N802
        self, ply_file_path: Path, transform_matrix: Float[Tensor, "3 4"], scale_factor: float
    ) -> dict[str, Tensor] | None:
        cloud = _points_in(path_here(ply_file_path))
        return _placed(cloud, transform_matrix, scale_factor) if len(cloud.xyz) > 0 else None


class _OwnBlender(Blender):
    """Needs no open3d."""

    def _load_3D_points(self, ply_file_path: Path) -> dict[str, Tensor]:  # noqa: N802
        return _placed(_points_in(ply_file_path), torch.eye(4)[:3], self.config.scale_factor)


class _OwnScanNet(ScanNet):
    """Needs no open3d."""

    def _load_3D_points(  # noqa: N802
        self, ply_file_path: Path, transform_matrix: Float[Tensor, "3 4"], scale_factor: float, points_color: bool
    ) -> dict[str, Tensor]:
        cloud = _points_in(ply_file_path)
        placed = _placed(cloud, transform_matrix, scale_factor) if len(cloud.xyz) > 0 else {}
        return placed if points_color else {name: placed[name] for name in placed if name != "points3D_rgb"}


def _points_in(file: Path) -> PointCloud:
    """The points of a PLY file; none if it is missing, which is reported before the scene is read."""
    return read_point_cloud(file) if file.exists() else PointCloud.empty()


def _placed(cloud: PointCloud, transform: Float[Tensor, "3 4"], scale: float) -> dict[str, Tensor]:
    """Points in the coordinates of the dataparser's poses, under the names that nerfstudio gives them."""
    homogeneous = torch.nn.functional.pad(torch.from_numpy(cloud.xyz), (0, 1), value=1.0)
    return {
        "points3D_xyz": homogeneous @ transform.T * scale,
        "points3D_rgb": torch.from_numpy(cloud.rgb),
    }


def has_photos_of_factor(config: DataParserConfig, factor: float) -> bool:
    """Whether a scene has photos whose size is divided by a factor, as in the folder `images_2`, or may have them.

    Args:
        config: a dataparser's config that has the field `downscale_factor`.
        factor: above 0. Folders are for whole numbers only; for 1 there are the photos themselves.
    """
    if factor == 1:
        return True
    if factor < 1 or factor != int(factor):
        return False
    folder = config.data.parent if config.data.suffix == ".json" else config.data
    if isinstance(config, ColmapDataParserConfig):
        return (folder / f"{config.images_path}_{int(factor)}").is_dir()
    if isinstance(config, NerfstudioDataParserConfig):
        return (folder / f"images_{int(factor)}").is_dir()
    return True


def split_to_read(config: DataParserConfig, split: str) -> str:
    """The split itself, or the other held-out one if the scene does not list this one."""
    listed = listed_splits(config)
    other = OTHER_HELD_OUT.get(split, split)
    return other if split not in listed and other in listed else split


def report_missing_splits(config: DataParserConfig) -> None:
    """Checks the lists of photos of a scene, and prints which list is used in place of a missing one.

    Raises:
        Difix3DError: the scene lists photos of some splits, but none for training, or none to hold out.
    """
    listed = listed_splits(config)
    if not listed:
        return
    where = _where_listed(config)
    if "train" not in listed:
        raise Difix3DError(
            f"the scene {config.data} has {' and '.join(where[each] for each in listed)} but no {where['train']}: add "
            "one."
        )
    missing = [split for split in OTHER_HELD_OUT if split not in listed]
    if len(missing) == 2:
        raise Difix3DError(
            f"the scene {config.data} has {where['train']} but neither {where['val']} nor {where['test']}: add one of "
            f"them, or remove {where['train']}, so that the dataparser's --eval-mode decides which photos are held out."
        )
    for split in missing:
        other = OTHER_HELD_OUT[split]
        warn(f"the scene {config.data} has no {where[split]}.", f"Its {other} photos are used for {split} too.")


def listed_splits(config: DataParserConfig) -> list[str]:
    """The splits that a scene lists; empty if it lists none and the dataparser splits the photos itself."""
    data = Path(config.data)
    if isinstance(config, NerfstudioDataParserConfig):
        content = read_transforms(data if data.suffix == ".json" else data / "transforms.json") or {}
        return [split for split in SPLITS if content.get(f"{split}_filenames") is not None]
    pattern = _file_of_split(config)
    return [split for split in SPLITS if pattern and (data / pattern.format(split)).exists()]


def _file_of_split(config: DataParserConfig) -> str:
    for kind, pattern in (
        (ColmapDataParserConfig, "{}_list.txt"),
        (BlenderDataParserConfig, "transforms_{}.json"),
        (MinimalDataParserConfig, "{}.npz"),
    ):
        if isinstance(config, kind):
            return pattern
    return ""


def _where_listed(config: DataParserConfig) -> dict[str, str]:
    pattern = "`{}_filenames`" if isinstance(config, NerfstudioDataParserConfig) else _file_of_split(config)
    return {split: pattern.format(split) for split in SPLITS}
