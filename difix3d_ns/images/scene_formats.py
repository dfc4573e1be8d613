"""Which of nerfstudio's dataparsers reads a scene. Recognising a scene loads no heavy library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from difix3d_ns.errors import Difix3DError

if TYPE_CHECKING:
    from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig

SceneFormat = Literal["nerfstudio-data", "instant-ngp-data", "blender-data", "colmap", "minimal-parser"]
"""nerfstudio's names of the dataparsers, as they are appended to `ns-train`."""
COLMAP_MODELS = ("colmap/sparse/0", "sparse/0", "colmap/sparse", "sparse", "colmap")
"""Where the files of a COLMAP model are, relative to the scene's folder."""
ANGLES = ("camera_angle_x", "x_fov")
"""Keys for the horizontal field of view, which only the dataparser instant-ngp-data reads."""
INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
"""Keys that nerfstudio-data needs for the whole scene or for each photo."""
WHAT_A_SCENE_IS = (
    "a transforms JSON, or a folder with a transforms.json, with the transforms_train.json of a Blender scene, or with "
    "the images and sparse/0 of a COLMAP model"
)


def format_of(scene: Path) -> SceneFormat | None:
    """Name of the dataparser that reads a scene; None if the path is not a scene.

    Args:
        scene: a transforms JSON or a folder.
    """
    if scene.suffix.lower() == ".json":
        return _format_of_json(scene)
    if (scene / "transforms.json").exists():
        return _format_of_json(scene / "transforms.json")
    if (scene / "transforms_train.json").exists():
        return "blender-data"
    if colmap_model(scene) is not None:
        return "colmap"
    return "minimal-parser" if (scene / "train.npz").exists() else None


def colmap_model(scene: Path) -> str | None:
    """Folder of a scene's COLMAP model, relative to the scene's folder; None if there is none."""
    for folder in COLMAP_MODELS:
        if any((scene / folder / f"cameras.{extension}").exists() for extension in ("bin", "txt")):
            return folder
    return None


def dataparser_for(scene: Path) -> DataParserConfig:
    """The config of the dataparser that reads a scene, with nerfstudio's defaults and without start points.

    Args:
        scene: a transforms JSON or a folder.

    Raises:
        Difix3DError: the path is not a scene.
    """
    # Imported here because loading nerfstudio takes seconds.
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
    from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
    from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
    from nerfstudio.data.dataparsers.minimal_dataparser import MinimalDataParserConfig
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    found = format_of(scene)
    require_small_extension(scene)
    if found is None:
        raise Difix3DError(f"{scene} is not a scene: give {WHAT_A_SCENE_IS}.")
    if found == "nerfstudio-data":
        return NerfstudioDataParserConfig(data=scene, load_3D_points=False)
    if found == "instant-ngp-data":
        return InstantNGPDataParserConfig(data=scene)
    if found == "blender-data":
        return BlenderDataParserConfig(data=scene if scene.is_dir() else scene.parent)
    if found == "colmap":
        # A factor of 1, because nerfstudio asks on the terminal before it makes smaller copies of large photos.
        path = Path(colmap_model(scene) or "")
        return ColmapDataParserConfig(data=scene, colmap_path=path, load_3D_points=False, downscale_factor=1)
    return MinimalDataParserConfig(data=scene)


def require_small_extension(scene: Path) -> None:
    """Raises Difix3DError for a transforms file such as SCENE.JSON, which nerfstudio takes for a folder."""
    if scene.suffix.lower() == ".json" != scene.suffix:
        raise Difix3DError(
            f"nerfstudio reads the scene {scene} only with an extension in small letters: rename the file to "
            f"{scene.with_suffix('.json').name}."
        )


def how_to_train(scene: Path) -> str:
    """What to append to `ns-train METHOD --data SCENE` for a scene that nerfstudio-data does not read.

    It is empty if nerfstudio-data reads the scene, or if no dataparser is known to read it.
    """
    found = format_of(scene)
    if found == "colmap":
        return f"colmap --colmap-path {colmap_model(scene)}"
    return "" if found in (None, "nerfstudio-data") else str(found)


def _format_of_json(file: Path) -> SceneFormat:
    content = read_transforms(file) or {}
    frames = [frame for frame in content.get("frames") or () if isinstance(frame, dict)]
    has_angle = any(key in content for key in ANGLES)
    has_focal_length = "fl_x" in content or any("fl_x" in frame for frame in frames)
    if not has_angle or has_focal_length:
        return "nerfstudio-data"
    is_split_of_blender = file.stem in ("transforms_train", "transforms_val", "transforms_test")
    if is_split_of_blender and (file.parent / "transforms_train.json").exists():
        return "blender-data"
    return "instant-ngp-data"


def read_transforms(file: Path) -> dict[str, Any] | None:
    """The content of a transforms JSON; None if it cannot be read, which the dataparser reports."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("frames", []), list) else None
