"""Where PseudoViewBankConfig was when earlier runs wrote their `config.yml`."""

from difix3d_ns.pseudo_views.bank import PseudoViewBankConfig

__all__ = ["PseudoViewBankConfig"]
