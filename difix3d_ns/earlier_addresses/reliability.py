"""Where ReliabilityConfig was when earlier runs wrote their `config.yml`."""

from difix3d_ns.vetting.reliability import ReliabilityConfig

__all__ = ["ReliabilityConfig"]
