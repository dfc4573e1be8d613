"""The viewer's panel for `rgb_enhanced`: network, reference, strength, and the time that a frame takes."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerCheckbox, ViewerSlider, ViewerText
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException
from torch import Tensor

from difix3d_ns.difix.errors import DifixError, DifixMemoryError, is_full_memory, reason_of
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.stopping import FixStopped
from difix3d_ns.printing import say
from difix3d_ns.viewer.panel import ViewerMarkdown, ViewerPanel, frame_is_outdated, plain

ENHANCE_PANEL = "Enhanced output (Difix3D+)"
"""The panel's label."""
HINT = "Choose the output type **rgb\\_enhanced** above, or as the second output of the split screen."

NO_MEMORY = "there is not enough GPU memory to enhance a frame of this size: lower Max res."

ReferenceOf = Callable[
    [LazyFixer, Float[Tensor, "height width 3"], Cameras, Mapping[str, Any]],
    Float[Tensor, "ref_height ref_width channels"] | None,
]
"""Returns the reference for a fixer and a render with its camera and outputs, in [0, 1], or None."""
ClearOf = Callable[
    [LazyFixer, Float[Tensor, "height width 3"], Cameras, Mapping[str, Any]],
    tuple[Float[Tensor, "height width 3"], Mapping[str, Any]],
]
"""Returns the render that a fixer is to clean in place of a render with its camera and outputs, and its outputs."""
BlurOf = Callable[
    [LazyFixer, Float[Tensor, "height width 3"], Float[Tensor, "height width 3"], Cameras, Mapping[str, Any]],
    Float[Tensor, "height width 3"],
]
"""Blurs the result of a fixer for a render where no photo shows the same; it also gets the render's camera and
outputs."""


@dataclass(frozen=True)
class EnhancedFrame:
    """A frame enhanced at full strength, and what it was made from."""

    fixer: LazyFixer
    use_reference: bool
    render: Float[Tensor, "height width 3"]
    clean: Float[Tensor, "height width 3"]

    def is_of(self, fixer: LazyFixer, use_reference: bool, render: Float[Tensor, "height width 3"]) -> bool:
        """Whether the network would return the same for this render."""
        return fixer is self.fixer and use_reference == self.use_reference and torch.equal(render, self.render)


class EnhancePanel(ViewerPanel):
    """Enhances the viewer's frames while the camera does not move, with the settings of its controls.

    If that fails, the viewer shows the render, and the panel and the log say why in one sentence. The controls only
    affect the viewer: training fixes its novel views as configured.

    Args:
        fixer: cleans frames until another network is loaded; its settings are the initial values of the controls.
        reference_of: returns the reference of a render; None if there is none.
        clear_of: hides what lies over a render although no photo shows it. Only for frames with a reference.
        blur_of: blurs what no photo shows, also only for frames with a reference.
    """

    def __init__(
        self,
        fixer: LazyFixer,
        reference_of: ReferenceOf,
        clear_of: ClearOf = lambda fixer, render, camera, outputs: (render, outputs),
        blur_of: BlurOf = lambda fixer, render, clean, *_: clean,
    ) -> None:
        super().__init__()
        self._fixer = fixer
        self._reference_of = reference_of
        self._clear_of = clear_of
        self._blur_of = blur_of
        self._loading: threading.Thread | None = None
        self._is_loading = False
        self._next: LazyFixer | None = None
        self._choice = threading.Lock()
        self._unusable: LazyFixer | None = None
        self._last: EnhancedFrame | None = None
        self._problem = ""
        self._frame = ""
        self._status = self._add(ViewerMarkdown("Enhanced output", HINT))
        self._network = self._add(
            ViewerText("Network", fixer.config.model, hint="auto, embedded, a hub id or a folder")
        )
        self._add(ViewerButton("Load network", lambda _: self.load(self._network.value)))
        self._use_reference = self._add(
            ViewerCheckbox("Reference photo", fixer.config.use_reference, hint="Give the network a nearby photo")
        )
        self._strength = self._add(
            ViewerSlider(
                "Strength", fixer.config.strength, 0.0, 1.0, 0.05, hint="0: the render. 1: the network's result"
            )
        )

    def enhance(
        self,
        render: Float[Tensor, "height width 3"],
        camera: Cameras,
        machine: RenderStateMachine,
        outputs: Mapping[str, Any],
    ) -> Float[Tensor, "height width 3"]:
        """Returns the enhanced frame if the camera does not move and the network is ready, otherwise the render.

        Args:
            render: in [0, 1].
            camera: its camera, shape (1,).
            machine: the viewer's render thread, which calls this.
            outputs: all outputs of the render.
        """
        strength = float(self._strength.value)
        if machine.state != "high" or strength == 0 or not self._is_ready():
            return render
        try:
            clean = self._clean(render, camera, outputs, lambda: frame_is_outdated(machine))
        except FixStopped:
            machine.interrupt_render_flag = False  # otherwise the first frame of the move would be interrupted too
            return render
        except DifixMemoryError:
            self._report(NO_MEMORY)
            return render
        except (Difix3DError, DifixError) as error:
            self._report(str(error))
            return render
        except IOChangeException:  # how the viewer ends a render that is no longer wanted
            raise
        except Exception as error:  # a fixer of another package can fail in any way; the viewer would freeze
            if is_full_memory(error):
                self._report(NO_MEMORY)
            else:
                self._report_unexpected(error)
            return render
        return clean if strength == 1 else render.lerp(clean, strength)

    def _clean(
        self,
        render: Float[Tensor, "height width 3"],
        camera: Cameras,
        outputs: Mapping[str, Any],
        stop: Callable[[], bool],
    ) -> Float[Tensor, "height width 3"]:
        """Cleans a render at full strength; the last result is reused for an equal render."""
        fixer, use_reference = self._fixer, bool(self._use_reference.value)
        last = self._last  # kept here because the thread that loads another network removes it
        if last is not None and last.is_of(fixer, use_reference, render):
            return last.clean
        photo, clear = None, render
        if use_reference:
            # Only here: a fix keeps the fixer while it waits for this lock, so nobody may wait for it the other way.
            with self._training_rests():
                clear, outputs = self._clear_of(fixer, render, camera, outputs)
                photo = self._reference_of(fixer, clear, camera, outputs)
        started = time.perf_counter()
        settings = replace(fixer.config, strength=1.0, use_reference=use_reference)
        clean = fixer.clean([clear], [photo], [camera], stop=stop, settings=settings)[0].to(render)
        milliseconds = 1000 * (time.perf_counter() - started)
        if use_reference:
            with self._training_rests():
                clean = self._blur_of(fixer, clear, clean, camera, outputs)
        self._last = EnhancedFrame(fixer, use_reference, render, clean)
        height, width = render.shape[:2]
        reference = "with a reference photo" if photo is not None else "without a reference photo"
        self._frame = f"{width} x {height} pixels in **{milliseconds:.0f} ms**, {reference}."
        self._problem = ""
        self._show()
        return clean

    def _is_ready(self) -> bool:
        """Whether the network is loaded. If it is not, starts to load it in another thread."""
        with self._choice:
            if not self._is_loading and not self._fixer.is_loaded and self._fixer is not self._unusable:
                self._start_loading(self._fixer)
        return self._fixer.is_loaded

    def load(self, model: str) -> None:
        """Loads another network and then uses it. If it cannot be loaded, the present one stays in use.

        While a network is loading, the last one that was asked for comes next.

        Args:
            model: `auto`, `embedded`, a hub id or a folder. A `.pkl` file works if the run has its base.
        """
        config, model = self._fixer.config, model.strip()
        if not model:
            self._report("name a network: auto, embedded, a hub id or a folder.", "Not loaded")
            return
        revision = config.revision if model == config.model else None
        fixer = self._fixer.with_config(replace(config, model=model, revision=revision))
        with self._choice:
            if self._is_loading:
                self._next = fixer
            else:
                self._start_loading(fixer)

    def _start_loading(self, fixer: LazyFixer) -> None:
        """Starts the thread that loads a network. The caller holds `_choice`, and nothing is loading."""
        self._is_loading = True
        # In a thread of its own, because a network may have to be downloaded.
        self._loading = threading.Thread(target=self._load_in_turn, args=(fixer,), daemon=True)
        self._show(f"Loading {plain(fixer.config.model)} ...")
        self._loading.start()

    def _load_in_turn(self, fixer: LazyFixer) -> None:
        wanted: LazyFixer | None = fixer
        while wanted is not None:
            self._load_and_use(wanted)
            with self._choice:
                wanted, self._next = self._next, None
                self._is_loading = wanted is not None
            if wanted is not None:
                self._show(f"Loading {plain(wanted.config.model)} ...")

    def _load_and_use(self, fixer: LazyFixer) -> None:
        try:
            fixer.load()
        except DifixMemoryError:
            self._refuse(fixer, f"there is not enough GPU memory for the network {fixer.config.model}.")
        except (Difix3DError, DifixError) as error:
            self._refuse(fixer, str(error))
        except Exception as error:  # as the viewer would otherwise load it again at each frame
            self._refuse(fixer, _described(error))
        else:
            # Without the last frame, nothing keeps a network that was loaded here before in memory.
            self._fixer, self._last, self._problem, self._frame = fixer, None, "", ""
            self._show()
            self._render_again()

    def _refuse(self, fixer: LazyFixer, problem: str) -> None:
        if fixer is self._fixer:
            self._unusable = fixer
            self._report(problem)
        else:
            self._report(f"{problem} The viewer still uses {self._fixer.config.model}.", "Not loaded")

    def _report(self, problem: str, what: str = "Not enhanced") -> None:
        """Shows a problem, and prints it unless it is the same as before."""
        shown = f"**{what}:** {plain(problem)}"
        if shown != self._problem:
            say(f"difix3d: {problem}")
        self._problem = shown
        self._show()

    def _report_unexpected(self, error: Exception) -> None:
        """Shows an error that is no sentence for users, and prints its traceback unless it was the last problem."""
        before = self._problem
        self._report(_described(error))
        if self._problem != before:
            traceback.print_exception(error)

    def _show(self, activity: str = "") -> None:
        lines = [activity] if activity else []
        if self._problem:
            lines.append(self._problem)
        if self._fixer.is_loaded and not activity:
            lines.append(f"**{plain(self._fixer.config.model)}** on {plain(str(self._fixer.device))}")
            lines.append(self._frame or HINT)
        self._status.text = "  \n".join(lines)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {reason_of(error)}."
