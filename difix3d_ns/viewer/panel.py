"""Base class and helpers of the panels in nerfstudio's viewer."""

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
    """A text in the viewer that the user cannot edit.

    Args:
        name: nerfstudio's name of the element; it is not shown.
        text: markdown. Use `plain` for text that must not be read as markup.
    """

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(name)
        self._text = text
        self._markdown: GuiMarkdownHandle | None = None

    @property
    def text(self) -> str:
        """The shown text, in markdown."""
        return self._text

    @text.setter
    def text(self, text: str) -> None:
        self._text = text
        if self._markdown is not None:
            self._markdown.content = text

    def _create_gui_handle(self, viser_server: ViserServer) -> None:
        self._markdown = viser_server.gui.add_markdown(self._text)

    def install(self, viser_server: ViserServer) -> None:
        """Adds the text to the viewer; nerfstudio calls this."""
        self._create_gui_handle(viser_server)


class ViewerPanel(nn.Module):
    """A folder of elements in the viewer's control tab.

    nerfstudio looks for elements among the attributes of the pipeline's modules. It labels the folder with the name of
    the attribute that holds the module, and sorts the elements by the names of their attributes. A panel is such a
    module. It has no parameters or buffers, so checkpoints contain nothing of it, and without a viewer it costs
    nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._num_elements = 0
        self.control = ViewerControl()

    def _add(self, element: Element) -> Element:
        """Adds an element below the earlier ones."""
        setattr(self, f"element_{self._num_elements:02d}", element)
        self._num_elements += 1
        return element

    @property
    def _viewer(self) -> Viewer | None:
        """nerfstudio's viewer; None if there is none."""
        return getattr(self.control, "viewer", None)

    def _training_rests(self) -> AbstractContextManager[object]:
        """A context in which no training step runs. Callbacks of elements already run in it and must not enter it."""
        lock = None if self._viewer is None else self._viewer.train_lock
        return nullcontext() if lock is None else lock

    def _render_again(self) -> None:
        """Makes every open page render its view again."""
        if self._viewer is None:
            return
        for machine in list(self._viewer.render_statemachines.values()):
            machine.action(RenderAction("rerender", self._viewer.get_camera_state(machine.client)))


def rendering_for_viewer() -> RenderStateMachine | None:
    """The viewer's render thread if this code runs in one, otherwise None. A viewer has one for each open page."""
    thread = threading.current_thread()
    return thread if isinstance(thread, RenderStateMachine) else None


def training_rests_for_viewer() -> AbstractContextManager[object]:
    """A context in which no training step runs, for code in the viewer's render thread that reads a lazy output.

    The viewer reads outputs after it has let training go on. Outside this thread the context does nothing.
    """
    machine = rendering_for_viewer()
    lock = None if machine is None else machine.viewer.train_lock
    return nullcontext() if lock is None else lock


def frame_is_outdated(machine: RenderStateMachine) -> bool:
    """Whether the frame that the render thread works on will not be shown: the camera moved, or the page closed."""
    waiting = machine.next_action
    return not machine.running or (waiting is not None and waiting.action in ("move", "rerender"))


def plain(text: str) -> str:
    """Escapes a text so that the viewer's markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-!|~$])", r"\\\1", " ".join(text.split()))
