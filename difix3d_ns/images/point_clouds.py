"""Point clouds in PLY files, from which training starts. open3d is not needed, which is large and slow to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from difix3d_ns.difix.errors import first_line
from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import write_whole

NUMBER_FORMATS = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
"""NumPy's names of the number formats of PLY files."""
BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
"""NumPy's signs for the forms of PLY files; the text form has no byte order."""
AXES, CHANNELS = ("x", "y", "z"), ("red", "green", "blue")


@dataclass(frozen=True)
class PointCloud:
    """Points and their colours."""

    xyz: Float32[np.ndarray, "num_points 3"]
    """Positions, in the coordinates of the file."""
    rgb: UInt8[np.ndarray, "num_colors 3"]
    """Colours of the points; empty if the file has none."""

    @staticmethod
    def empty() -> PointCloud:
        """A cloud without points."""
        return PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8))


@dataclass
class _Table:
    """A table of a PLY file: a row for each vertex or face."""

    name: str
    num_rows: int
    columns: list[tuple[str, str]] = field(default_factory=list)
    """Name and number format of each column."""
    has_lists: bool = False
    """Whether a column contains lists, so that rows differ in length."""


def read_point_cloud(file: Path) -> PointCloud:
    """Reads the vertices of a PLY file, in text or binary form.

    Raises:
        Difix3DError: it cannot be read, is no PLY file, or is damaged.
    """
    try:
        with file.open("rb") as opened:
            form, tables = _read_header(opened)
            columns = _read_vertices(opened, form, tables)
    except (OSError, ValueError) as error:
        raise Difix3DError(
            f"the start points {file} cannot be read ({first_line(error)}): put back a whole PLY file, or leave it out "
            "to start from random points."
        ) from error
    xyz = np.stack([columns[name] for name in AXES], axis=-1).astype(np.float32)
    if not {*CHANNELS} <= columns.keys():
        return PointCloud(xyz, np.zeros((0, 3), np.uint8))
    return PointCloud(xyz, np.stack([columns[name] for name in CHANNELS], axis=-1).astype(np.uint8))


def write_point_cloud(file: Path, cloud: PointCloud) -> None:
    """Writes a binary PLY file, whole or not at all."""
    columns = dict(zip(AXES, cloud.xyz.T, strict=True))
    if len(cloud.rgb) > 0:
        columns |= dict(zip(CHANNELS, cloud.rgb.T, strict=True))
    kinds = {name: "float" if name in AXES else "uchar" for name in columns}
    vertices = np.empty(len(cloud.xyz), [(name, "<" + NUMBER_FORMATS[kind]) for name, kind in kinds.items()])
    for name, values in columns.items():
        vertices[name] = values
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(vertices)}",
        *(f"property {kind} {name}" for name, kind in kinds.items()),
        "end_header",
    ]
    write_whole(file, "".join(f"{line}\n" for line in header).encode() + vertices.tobytes())


def _read_header(opened: IO[bytes]) -> tuple[str, list[_Table]]:
    """Reads up to the end of the header.

    Returns:
        The form of the tables, a key of `BYTE_ORDERS`; and the tables.
    """
    if opened.readline().strip() != b"ply":
        raise ValueError("its first line is not `ply`")
    form, tables = "", list[_Table]()
    for line in opened:
        words = line.decode("latin-1").split()
        try:
            if words[:1] == ["end_header"]:
                break
            if words[:1] == ["format"]:
                form = words[1]
            elif words[:1] == ["element"]:
                tables.append(_Table(words[1], int(words[2])))
            elif words[:2] == ["property", "list"]:
                tables[-1].has_lists = True
            elif words[:1] == ["property"]:
                tables[-1].columns.append((words[2], NUMBER_FORMATS[words[1]]))
        except (LookupError, ValueError) as error:
            raise ValueError(f"its header has the line `{' '.join(words)}`") from error
    else:
        raise ValueError("its header has no end")
    if form not in BYTE_ORDERS:
        raise ValueError(f"its format is `{form}`")
    return form, tables


def _read_vertices(opened: IO[bytes], form: str, tables: list[_Table]) -> dict[str, Float64[np.ndarray, "num_points"]]:
    """Reads the columns of the vertices, by name."""
    names = [table.name for table in tables]
    up_to_vertices = tables[: names.index("vertex") + 1] if "vertex" in names else []
    if not up_to_vertices or not {*AXES} <= {name for name, _ in up_to_vertices[-1].columns}:
        raise ValueError("it has no vertices with x, y and z")
    if any(table.has_lists for table in up_to_vertices):
        raise ValueError("its vertices contain lists, or come after a table with lists")
    rows: Any = ()
    for table in up_to_vertices:
        kinds = [(name, "f8" if form == "ascii" else BYTE_ORDERS[form] + kind) for name, kind in table.columns]
        rows = np.empty(0, kinds)
        if table.num_rows > 0 and form == "ascii":
            rows = np.loadtxt(opened, kinds, comments=None, max_rows=table.num_rows, ndmin=1)
        elif table.num_rows > 0:
            rows = np.fromfile(opened, kinds, table.num_rows)
        if len(rows) < table.num_rows:
            raise ValueError(f"it ends after {len(rows)} of {table.num_rows} rows of its table `{table.name}`")
    return {name: rows[name].astype(np.float64) for name in rows.dtype.names or ()}
