"""Where ReferenceConfig was when earlier runs wrote their `config.yml`."""

from difix3d_ns.fixing.references import ReferenceConfig

__all__ = ["ReferenceConfig"]
