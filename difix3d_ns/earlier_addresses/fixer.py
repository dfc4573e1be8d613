"""Where DifixConfig was when earlier runs wrote their `config.yml`."""

from difix3d_ns.fixing.fixer import DifixConfig

__all__ = ["DifixConfig"]
