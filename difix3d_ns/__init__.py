"""Difix3D+ for nerfstudio: Gaussian splatting whose novel views are cleaned by a one-step diffusion model.

Public are the names in `__all__`, the command lines, the methods' config classes and the entry point group for
fixers. Importing this package loads none of them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from difix3d_ns.difix.errors import DifixError
    from difix3d_ns.difix.pipeline import DifixPipeline, DifixPipelineOutput
    from difix3d_ns.errors import Difix3DError
    from difix3d_ns.fixing.fixer import DifixConfig, Fixer

__all__ = ["Difix3DError", "DifixConfig", "DifixError", "DifixPipeline", "DifixPipelineOutput", "Fixer"]

_MODULES = {
    "Difix3DError": "errors",
    "DifixConfig": "fixing.fixer",
    "DifixError": "difix.errors",
    "DifixPipeline": "difix.pipeline",
    "DifixPipelineOutput": "difix.pipeline",
    "Fixer": "fixing.fixer",
}
"""The module of each public name, which is imported when the name is used."""

# The `config.yml` of a run names config classes by module. Runs made before the classes moved still find them.
__path__.append(str(Path(__file__).parent / "earlier_addresses"))


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
