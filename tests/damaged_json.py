"""JSON as a fault or a stranger may leave it: of any content, or a valid one with a part replaced or missing."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([10**40, -1, "..", "../../a", "/", "\0"]),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=5), parts, max_size=4),
    max_leaves=6,
) | st.text(max_size=20)
"""Whatever `json.loads` may give."""


@st.composite
def damaged_json(draw: st.DrawFn, valid: Any) -> Any:
    """Anything at all, or `valid` with one of its parts replaced by anything, or taken out."""
    places = list(_places(valid))
    where = draw(st.sampled_from([None, *places]))
    if where is None:
        return draw(ANYTHING)
    content = deepcopy(valid)
    holder: Any = content
    for key in where[:-1]:
        holder = holder[key]
    if draw(st.booleans()):
        holder[where[-1]] = draw(ANYTHING)
    else:
        del holder[where[-1]]
    return content


def _places(content: Any) -> Iterator[tuple]:
    """The keys that lead to each part of a JSON."""
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, part in parts:
        yield (key,)
        for below in _places(part):
            yield (key, *below)
