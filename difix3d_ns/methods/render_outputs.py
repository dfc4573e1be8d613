"""A mapping of render outputs whose expensive entries are computed only when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any


class RenderOutputs(MutableMapping[str, Any]):
    """Render outputs as nerfstudio's tools expect them, some of them lazy.

    `ns-render` evaluates `name in outputs` and reads `outputs[name]`; the viewer lists `outputs.keys()` and reads the
    selected entry. A lazy entry is listed like any other; it is computed once, when it is first read.

    Args:
        values: entries that already exist.
        lazy: functions without arguments that compute the entries, by name.
    """

    def __init__(self, values: dict[str, Any], lazy: dict[str, Callable[[], Any]] | None = None) -> None:
        self._values = dict(values)
        self._lazy = dict(lazy or {})

    def __getitem__(self, name: str) -> Any:
        if name not in self._values and name in self._lazy:
            self._values[name] = self._lazy.pop(name)()
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._lazy.pop(name, None)
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        if self._lazy.pop(name, None) is None:
            del self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values or name in self._lazy

    def __iter__(self) -> Iterator[str]:
        yield from self._values
        yield from self._lazy

    def __len__(self) -> int:
        return len(self._values) + len(self._lazy)

    def __repr__(self) -> str:
        return f"RenderOutputs({list(self._values)}, lazy={list(self._lazy)})"
