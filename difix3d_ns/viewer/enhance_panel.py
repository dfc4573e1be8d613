"""The viewer's panel of `rgb_enhanced`: which network, with which reference, how strong, and how long a frame takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerCheckbox, ViewerSlider, ViewerText
from torch import Tensor

from difix3d_ns.difix.errors import DifixError, DifixMemoryError
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.difix_fixer import DifixFixer
from difix3d_ns.fixing.stopping import FixStopped
from difix3d_ns.viewer.panel import ViewerMarkdown, ViewerPanel, camera_wants_to_move, plain

ENHANCE_PANEL = "Enhanced output (Difix3D+)"
"""The panel's label."""
HINT = "Choose the output type **rgb\\_enhanced**, above or as second output of the split screen."

PhotoOfCamera = Callable[[Cameras], Float[Tensor, "ref_height ref_width 3"] | None]


@dataclass(frozen=True)
class EnhancedFrame:
    """A frame at full strength, and what it was made from."""

    fixer: DifixFixer
    use_reference: bool
    render: Float[Tensor, "height width 3"]
    clean: Float[Tensor, "height width 3"]

    def is_of(self, fixer: DifixFixer, use_reference: bool, render: Float[Tensor, "height width 3"]) -> bool:
        """Whether the network would make the same of this render again."""
        return fixer is self.fixer and use_reference == self.use_reference and torch.equal(render, self.render)


class EnhancePanel(ViewerPanel):
    """Enhances the viewer's frames while the camera rests, as its controls say.

    What goes wrong is told in one sentence, in the panel and in the log; the viewer then shows the render. The
    controls are the viewer's alone: training fixes its novel views as configured.

    Args:
        fixer: cleans frames until another network is loaded; its settings are where the controls start.
        reference_of: the photo that serves as reference for a camera; None where there is none.
    """

    def __init__(self, fixer: DifixFixer, reference_of: PhotoOfCamera) -> None:
        super().__init__()
        self._fixer = fixer
        self._reference_of = reference_of
        self._loading: threading.Thread | None = None
        self._unusable: DifixFixer | None = None
        self._last: EnhancedFrame | None = None
        self._problem = ""
        self._frame = ""
        self._status = self._add(ViewerMarkdown("Enhanced output", HINT))
        self._network = self._add(
            ViewerText("Network", fixer.config.model, hint="auto, embedded, a hub id, a folder or a .pkl")
        )
        self._add(ViewerButton("Load network", lambda _: self.load(self._network.value)))
        self._use_reference = self._add(
            ViewerCheckbox("Reference photo", fixer.config.use_reference, hint="Give the nearest photo to the network")
        )
        self._strength = self._add(
            ViewerSlider(
                "Strength", fixer.config.strength, 0.0, 1.0, 0.05, hint="0 is the render, 1 the network's result"
            )
        )

    def enhance(
        self, render: Float[Tensor, "height width 3"], camera: Cameras, machine: RenderStateMachine
    ) -> Float[Tensor, "height width 3"]:
        """A frame for the viewer, enhanced if the camera rests and the network is ready; the render if not.

        Args:
            render: in [0, 1].
            camera: its camera, shape (1,).
            machine: the viewer's render thread, which this runs in.
        """
        strength = float(self._strength.value)
        if machine.state != "high" or strength == 0 or not self._is_ready():
            return render
        try:
            clean = self._clean(render, camera, lambda: camera_wants_to_move(machine))
        except FixStopped:
            machine.interrupt_render_flag = False  # else the first frame of the move would be given up as well
            return render
        except DifixMemoryError:
            self._tell("there is not enough GPU memory to enhance a frame of this size: lower Max res.")
            return render
        except (Difix3DError, DifixError) as error:
            self._tell(str(error))
            return render
        return clean if strength == 1 else render.lerp(clean, strength)

    def _clean(
        self, render: Float[Tensor, "height width 3"], camera: Cameras, stop: Callable[[], bool]
    ) -> Float[Tensor, "height width 3"]:
        """What the network makes of a render; the same render is not worked on twice in a row."""
        fixer, use_reference = self._fixer, bool(self._use_reference.value)
        if self._last is not None and self._last.is_of(fixer, use_reference, render):
            return self._last.clean
        photo = None
        if use_reference:
            with self._training_rests():
                photo = self._reference_of(camera)
        started = time.perf_counter()
        how = replace(fixer.config, strength=1.0, use_reference=use_reference)
        clean = fixer.fix([render], [photo], stop=stop, how=how)[0].to(render)
        milliseconds = 1000 * (time.perf_counter() - started)
        self._last = EnhancedFrame(fixer, use_reference, render, clean)
        height, width = render.shape[:2]
        reference = "with a reference photo" if photo is not None else "without a reference photo"
        self._frame = f"{width} x {height} pixels in **{milliseconds:.0f} ms**, {reference}."
        self._problem = ""
        self._show()
        return clean

    def _is_ready(self) -> bool:
        """Whether the network can be used now; if it is not loaded, it loads from now on, besides the rendering."""
        if not self._fixer.is_loaded and self._fixer is not self._unusable:
            self._load(self._fixer)
        return self._fixer.is_loaded

    def load(self, model: str) -> None:
        """Loads another network and then uses it; if it cannot be used, the present one stays.

        Args:
            model: `auto`, `embedded`, a hub id, a folder or a `.pkl`.
        """
        config, model = self._fixer.config, model.strip()
        if not model:
            self._tell("name a network: auto, embedded, a hub id, a folder or a .pkl.", "Not loaded")
            return
        revision = config.revision if model == config.model else None
        self._load(DifixFixer(replace(config, model=model, revision=revision), self._fixer.device))

    def _load(self, fixer: DifixFixer) -> None:
        if self._loading is not None and self._loading.is_alive():
            return
        self._loading = threading.Thread(target=self._load_and_use, args=(fixer,), daemon=True)
        self._show(f"Loading {plain(fixer.config.model)} ...")
        self._loading.start()

    def _load_and_use(self, fixer: DifixFixer) -> None:
        """Runs in a thread of its own: a network may have to be downloaded."""
        try:
            fixer.network  # noqa: B018, loads it
        except DifixMemoryError:
            self._refuse(fixer, f"there is not enough GPU memory for the network {fixer.config.model}.")
        except (Difix3DError, DifixError) as error:
            self._refuse(fixer, str(error))
        else:
            self._fixer, self._problem, self._frame = fixer, "", ""
            self._show()
            self._render_again()

    def _refuse(self, fixer: DifixFixer, problem: str) -> None:
        if fixer is self._fixer:
            self._unusable = fixer
            self._tell(problem)
        else:
            self._tell(f"{problem} The viewer goes on with {self._fixer.config.model}.", "Not loaded")

    def _tell(self, problem: str, what: str = "Not enhanced") -> None:
        """Shows a problem, and prints it if it is another than before."""
        shown = f"**{what}:** {plain(problem)}"
        if shown != self._problem:
            CONSOLE.print(f"difix3d: {problem}", markup=False)
        self._problem = shown
        self._show()

    def _show(self, activity: str = "") -> None:
        lines = [activity] if activity else []
        if self._problem:
            lines.append(self._problem)
        if self._fixer.is_loaded and not activity:
            lines.append(f"**{plain(self._fixer.config.model)}** on {plain(str(self._fixer.device))}")
            lines.append(self._frame or HINT)
        self._status.text = "  \n".join(lines)
