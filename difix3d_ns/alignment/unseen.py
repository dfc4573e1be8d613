"""Blurs what no photo shows in renders of a splat.

Where a splat shows a surface that no photo sees, its render is a guess, with needles, streaks and wrong patterns. As
training targets they would stay for good. A blurred guess keeps the colours and is nearer to the truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from difix3d_ns.alignment.views import AlignmentView
from difix3d_ns.alignment.warping import visibility
from difix3d_ns.vetting.blur import coarse_blur

GRID_SIZE = 96
"""Number of cells along the longer side of the grid on which images are blurred."""
BLUR_CELLS = 4.0
"""Standard deviation of the blur, in cells; this is a twenty-fourth of the longer side. Also of the window in which
most pixels have to be unseen: narrow strips beside edges, which renders continue well, stay sharp."""
LOOKUP_SIZE = 240
"""Surfaces are compared at about this many pixels along the longer side."""
DEPTH_TOLERANCE = 0.05
"""Relative difference of depths up to which a photo shows the same surface."""
UNCHANGED = 4 / 255
"""Largest change of a pixel by a network that leaves it as it was."""


def for_lookup(view: AlignmentView) -> AlignmentView:
    """A view with about as many pixels as surfaces are compared at."""
    return view.reduced(max(1, round(max(view.size) / LOOKUP_SIZE)))


def unseen(view: AlignmentView, photos: Sequence[AlignmentView]) -> Bool[Tensor, "height width"]:
    """The pixels of a view whose surface no photo shows. A hole has no surface.

    Args:
        view: the view.
        photos: views of all photos with the depths that the splat has there.
    """
    points, shown = view.points(view.depth), torch.zeros_like(view.valid)
    for photo in photos:
        pixels, depth, inside = photo.project(points)
        shown |= inside & (visibility(photo, pixels, depth, DEPTH_TOLERANCE) > 0)
    return view.valid & ~shown


def blur_unseen(
    render: Float[Tensor, "height width 3"],
    fixed: Float[Tensor, "height width 3"],
    view: AlignmentView,
    photos: Sequence[AlignmentView],
) -> tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width 3"]]:
    """Blurs a novel view where it shows what no photo shows, unless the network has changed it there.

    Args:
        render: the render, in [0, 1].
        fixed: the network's output for it, in [0, 1] or NaN; the render itself without a network.
        view: what it shows, reduced by `for_lookup`.
        photos: what all photos show, reduced likewise.

    Returns:
        Render and output, which are alike where they are blurred, on the device of the render. They are blurred on
        that of `view`, where `photos` have to be.
    """
    if not fixed.isfinite().all():
        return render, fixed.to(render)
    where = render.device
    render, fixed = render.to(view.depth), fixed.to(view.depth)
    height, width = render.shape[:2]
    found = interpolate(unseen(view, photos)[None, None].to(render), (height, width), mode="nearest-exact")
    unchanged = (fixed - render).abs().amax(dim=-1) <= UNCHANGED
    both = torch.cat([fixed.permute(2, 0, 1)[None], found * unchanged], dim=1)
    smooth = coarse_blur(both, GRID_SIZE, BLUR_CELLS, mode="bicubic")[0].permute(1, 2, 0)
    colors, share = smooth[..., :3].clamp(0, 1), smooth[..., 3:]
    weight = (2 * share - 1).clamp(0, 1)
    return torch.lerp(render, colors, weight).to(where), torch.lerp(fixed, colors, weight).to(where)
