"""The start points of a scene that training reads: its photos in, points and a sentence about them out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.cameras.poses import pose_distances, scene_radius
from difix3d_ns.images.photos import READING_ERRORS, PhotoDataset
from difix3d_ns.images.point_clouds import PointCloud, write_point_cloud
from difix3d_ns.images.scene_checks import unreadable_scene
from difix3d_ns.printing import say
from difix3d_ns.progress import progress_bars
from difix3d_ns.stereo.seen_once import points_seen_once
from difix3d_ns.stereo.start_points import stereo_start_points
from difix3d_ns.stereo.views import StereoView, stereo_view

START_POINTS_NAME = "start_points.ply"
MIN_ADDED = 0.02
"""Points are added if they are more than this fraction of the scene's own: a handful changes nothing."""
MAX_PIXELS = 40_000
"""Photos are matched at no more than this many pixels: half of 480 x 320 along each side."""
MAX_PHOTOS = 60
"""At most this many photos are matched. They are spread over the scene, and more would add points where some are."""


def place_start_points(
    dataset: PhotoDataset,
    metadata: dict[str, Any],
    num_wanted: int,
    device: torch.device | str,
    run_folder: Path,
    data: Path | None,
) -> tuple[Float[Tensor, "num_points 3"], Float[Tensor, "num_points 3"]] | None:
    """Matches the training photos, writes `start_points.ply` and prints what was found.

    Args:
        dataset: the training photos.
        metadata: nerfstudio's, of the scene; it may contain the scene's own points.
        num_wanted: about how many points are wanted.
        device: where the photos are matched.
        run_folder: folder of the run.
        data: the scene, for messages.

    Returns:
        Points in scene units and their colours in [0, 1], on the CPU; None if no photos match.

    Raises:
        Difix3DError: a photo cannot be read, or the file cannot be written.
    """
    begin = time.monotonic()
    views = _views(dataset, spread_photos(dataset), device, data)
    given, colors = _given_points(metadata, views, device)
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
    with progress_bars() as bars:
        bar = bars.add_task("Start points", total=len(views))
        found = stereo_start_points(views, given, colors, num_wanted, lambda _: bars.advance(bar), generator)
    seconds = time.monotonic() - begin
    if found is None:
        say(
            f"Start points: the {len(views)} photos do not match each other, so the splat starts from the scene's own "
            f"{len(given)} points or from random ones ({seconds:.0f} s)."
        )
        return None
    say(
        f"Start points: {len(found.points)} after {seconds:.0f} s, of which {found.num_matched} match between photos, "
        f"{found.num_filled} fill what does not match, and {found.num_given} are the scene's own."
    )
    return _written(found.points, found.colors, run_folder)


def add_points_seen_once(
    dataset: PhotoDataset,
    metadata: dict[str, Any],
    device: torch.device | str,
    run_folder: Path,
    data: Path | None,
) -> tuple[Float[Tensor, "num_points 3"], Float[Tensor, "num_points 3"]] | None:
    """Adds points to the scene's own where one photo alone looks, writes `start_points.ply` and prints how many.

    The arguments are those of `place_start_points`.

    Returns:
        All points in scene units and their colours in [0, 1], on the CPU; None if there are too few to add.

    Raises:
        Difix3DError: a photo cannot be read, or the file cannot be written.
    """
    views = _views(dataset, range(len(dataset)), device, data)
    given, colors = _given_points(metadata, views, device)
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
    added, added_colors = points_seen_once(views, given, generator)
    if len(added) <= MIN_ADDED * len(given):
        return None
    say(
        f"Start points: {len(added)} are added to the scene's {len(given)}, where one photo alone shows the plane that "
        "the points around lie on. --pipeline.start-points.source scene adds none."
    )
    return _written(torch.cat([given, added]), torch.cat([colors, added_colors]), run_folder)


def _written(
    points: Float[Tensor, "num_points 3"], colors: Float[Tensor, "num_points 3"], run_folder: Path
) -> tuple[Float[Tensor, "num_points 3"], Float[Tensor, "num_points 3"]]:
    """Points and colours on the CPU, after writing them into the run's folder."""
    points, colors = points.cpu(), colors.cpu()
    cloud = PointCloud(points.numpy(), (colors * 255).round().clamp(0, 255).byte().numpy())
    write_point_cloud(run_folder / START_POINTS_NAME, cloud)
    return points, colors


def _given_points(
    metadata: dict[str, Any], views: list[StereoView], device: torch.device | str
) -> tuple[Float[Tensor, "num_points 3"], Float[Tensor, "num_points 3"]]:
    """The scene's own points, and their colours in [0, 1]."""
    given = metadata.get("points3D_xyz", torch.zeros(0, 3)).float().to(device)
    colors = metadata.get("points3D_rgb", torch.zeros(0, 3)).float().to(device) / 255
    if len(colors) != len(given):  # a point cloud may come without colours
        return colors_from_photos(given, views)
    return given, colors


def spread_photos(dataset: PhotoDataset) -> list[int]:
    """Indices of the photos to match: all, or `MAX_PHOTOS` whose poses are far apart."""
    poses = dataset.cameras.camera_to_worlds.cpu()
    if len(poses) <= MAX_PHOTOS:
        return list(range(len(poses)))
    distances = pose_distances(poses, poses, scene_radius(poses))
    chosen = [0]
    nearest = distances[0].clone()
    while len(chosen) < MAX_PHOTOS:
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, distances[chosen[-1]])
    return sorted(chosen)


def _views(
    dataset: PhotoDataset, indices: Iterable[int], device: torch.device | str, data: Path | None
) -> list[StereoView]:
    """Some of the photos, reduced."""
    try:
        return [_view(dataset, index, device) for index in indices]
    except READING_ERRORS as error:
        raise unreadable_scene(data, error) from error


def _view(dataset: PhotoDataset, index: int, device: torch.device | str) -> StereoView:
    image = dataset.get_image_float32(index).to(device)
    return stereo_view(image, dataset.mask(index), dataset.cameras[index : index + 1].to("cpu"), MAX_PIXELS)


def colors_from_photos(
    points: Float[Tensor, "num_points 3"], views: list[StereoView]
) -> tuple[Float[Tensor, "num_points 3"], Float[Tensor, "num_points 3"]]:
    """The points that a photo shows, with the mean of their colours there."""
    sums, counts = torch.zeros_like(points), torch.zeros_like(points[:, :1])
    for view in views:
        pixels, _, inside = view.project(points)
        row, column = view.at(pixels)
        sums += view.colors[row, column] * inside[:, None]
        counts += inside[:, None]
    seen = counts[:, 0] > 0
    return points[seen], (sums / counts.clamp_min(1))[seen]
