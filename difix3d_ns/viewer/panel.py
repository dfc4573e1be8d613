"""What panels in nerfstudio's viewer have in common."""

from __future__ import annotations

import re
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from nerfstudio.viewer.render_state_machine import RenderAction, RenderStateMachine
from nerfstudio.viewer.viewer import Viewer
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement
from torch import nn
from viser import GuiMarkdownHandle, ViserServer

Element = TypeVar("Element", bound=ViewerElement)


class ViewerMarkdown(ViewerElement[str]):
    """A text in the viewer that the user reads and does not change.

    Args:
        name: what nerfstudio calls the element; it is not shown.
        text: in markdown; what is no markup goes through `plain`.
    """

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(name)
        self._text = text
        self._markdown: GuiMarkdownHandle | None = None

    @property
    def text(self) -> str:
        """What is shown, in markdown."""
        return self._text

    @text.setter
    def text(self, text: str) -> None:
        self._text = text
        if self._markdown is not None:
            self._markdown.content = text

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self._markdown = viser_server.gui.add_markdown(self._text)

    def install(self, viser_server: ViserServer) -> None:
        """As in nerfstudio."""
        self._create_gui_handle(viser_server)


class ViewerPanel(nn.Module):
    """A folder of elements in the viewer's control tab.

    nerfstudio finds elements as attributes of modules below the pipeline, takes the attribute's name of a module for
    the folder's label and sorts elements by the names of theirs. A panel is such a module: without parameters and
    buffers, so that a checkpoint holds nothing of it. As long as no viewer runs it costs nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._num_elements = 0
        self.control = ViewerControl()

    def _add(self, element: Element) -> Element:
        """Places an element below the ones that are there."""
        setattr(self, f"element_{self._num_elements:02d}", element)
        self._num_elements += 1
        return element

    @property
    def _viewer(self) -> Viewer | None:
        """nerfstudio's viewer; None as long as there is none."""
        return getattr(self.control, "viewer", None)

    def _training_rests(self) -> AbstractContextManager[object]:
        """A context in which no training step runs; an element's callback is in it already and must not enter it."""
        lock = None if self._viewer is None else self._viewer.train_lock
        return nullcontext() if lock is None else lock

    def _render_again(self) -> None:
        """Makes every open page show its view anew."""
        if self._viewer is None:
            return
        for machine in list(self._viewer.render_statemachines.values()):
            machine.action(RenderAction("rerender", self._viewer.get_camera_state(machine.client)))


def rendering_for_viewer() -> RenderStateMachine | None:
    """The viewer's render thread, if this code runs in it; a viewer has one for each open page."""
    thread = threading.current_thread()
    return thread if isinstance(thread, RenderStateMachine) else None


def camera_wants_to_move(machine: RenderStateMachine) -> bool:
    """Whether something waits that makes the frame which the render thread is at out of date."""
    waiting = machine.next_action
    return not machine.running or (waiting is not None and waiting.action in ("move", "rerender"))


def plain(text: str) -> str:
    """A text whose characters mean themselves in the viewer's markdown."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-!|~$])", r"\\\1", " ".join(text.split()))
