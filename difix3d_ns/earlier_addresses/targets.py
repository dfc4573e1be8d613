"""Where TargetConfig was when earlier runs wrote their `config.yml`."""

from difix3d_ns.novel_views.targets import TargetConfig

__all__ = ["TargetConfig"]
