"""Curation: makes pairs of degraded renders and photos for training Difix from nerfstudio scenes."""

from difix3d_ns.curation.curate_options import CurateConfig


def curate(config: CurateConfig) -> None:
    """Makes the pairs of all scenes, see `difix3d_ns.curation.spreading.curate`."""
    # Imported here because it loads Pillow and accelerate, which other commands do not need.
    from difix3d_ns.curation.spreading import curate as run_curation

    run_curation(config)
