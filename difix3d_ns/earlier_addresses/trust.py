"""Where TrustConfig was when earlier runs wrote their `config.yml`."""

from difix3d_ns.vetting.trust import TrustConfig

__all__ = ["TrustConfig"]
