"""The layout of the package: which folder may import which, and that no imports form a circle."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "difix3d_ns"

FLOORS = (
    {"difix", "options", "printing", "progress", "rasterization"},
    {"errors"},
    {"cameras", "files", "machine", "pseudo_views"},
    {"images", "resuming", "splats", "vetting", "videos"},
    {"stereo", "trainer"},
    {"alignment"},
    {"fixing"},
    {"frames", "novel_views", "viewer"},
    {"methods"},
    {"datamanager", "model"},
    {"nerfacto", "pipeline"},
    {"config", "curation", "earlier_addresses", "rendering"},
    {"evaluation"},
    {"cli"},
)
"""Files and folders of the package, lowest first. Each imports only from floors below its own."""


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports() -> dict[str, set[str]]:
    """The package's own modules that each of its modules imports, anywhere in it."""
    files = {module_name(file): file for file in PACKAGE.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for module, file in files.items():
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {(node.module or "", alias.name) for node in nodes for alias in node.names}
        inside = {(source, name) for source, name in names if source.partition(".")[0] == PACKAGE.name}
        found[module] = {f"{source}.{name}" if f"{source}.{name}" in files else source for source, name in inside}
        found[module] -= {module}
    return found


def test_every_import_goes_to_a_lower_floor() -> None:
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    for module, others in imports().items():
        own = module.split(".")[1:2]
        for other in others:
            theirs = other.split(".")[1:2]
            if own and theirs and own != theirs:
                assert floor_of[theirs[0]] < floor_of[own[0]], f"{module} imports {other}"


def test_no_imports_form_a_circle() -> None:
    left = dict(imports())
    while left:
        free = {module for module, others in left.items() if not others & left.keys()}
        assert free, f"these modules import each other in a circle: {sorted(left)}"
        left = {module: others for module, others in left.items() if module not in free}
