"""Breaks in a fix of the novel views, in which the viewer may render."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.viewer import Viewer

SECONDS_PER_BREAK = 0.005
"""How long the lock stays free. A thread that waits for it wakes up sooner, and the break ends when it has rendered."""


class Breaks:
    """Lets the viewer render between the views of a fix.

    nerfstudio's trainer holds its lock during a training step, and so during the fix before the step. The viewer needs
    the lock to render. In a break the training thread releases it for a moment, if a page of the viewer is open.

    A fix keeps its turn at the fixer in its breaks. A thread that holds the lock must therefore not wait for the fixer,
    or the two would wait for each other.

    Args:
        viewer: returns nerfstudio's viewer; None if there is none.
    """

    def __init__(self, viewer: Callable[[], Viewer | None]) -> None:
        self._viewer = viewer
        self._thread: int | None = None

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A context of the training thread, which holds the lock, in which it takes breaks."""
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None

    def take(self) -> None:
        """Lets the viewer render now. Does nothing in other threads, and outside of `allowed`."""
        viewer = self._viewer()
        if threading.get_ident() != self._thread or viewer is None or not viewer.render_statemachines:
            return
        lock = viewer.train_lock
        if lock is None:
            return
        lock.release()
        try:
            # Locks are not fair: without a pause this thread would get the lock back before the viewer wakes up.
            time.sleep(SECONDS_PER_BREAK)
            lock.acquire()
        except KeyboardInterrupt:
            # The trainer releases the lock when it ends, which must not fail. This thread may have it already.
            lock.acquire(timeout=1.0)
            raise

    def after_renders_of(self, model: Any) -> Any:
        """The model, but with a break after each render for a camera."""
        return _RendererWithBreaks(model, self.take)


class _RendererWithBreaks:
    def __init__(self, model: Any, take_break: Callable[[], None]) -> None:
        self._model, self._take_break = model, take_break

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def get_outputs_for_camera(self, camera: Cameras) -> Any:
        outputs = self._model.get_outputs_for_camera(camera)
        self._take_break()
        return outputs
