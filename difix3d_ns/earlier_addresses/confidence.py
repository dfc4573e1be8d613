"""Where ConfidenceConfig was when earlier runs wrote their `config.yml`."""

from difix3d_ns.vetting.confidence import ConfidenceConfig

__all__ = ["ConfidenceConfig"]
