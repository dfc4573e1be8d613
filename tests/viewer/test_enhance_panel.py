"""The viewer's `rgb_enhanced`: the render while the camera moves, the enhanced frame when it does not."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import torch
from difix.tiny_network import make_tiny
from nerfstudio.viewer_legacy.server.viewer_utils import IOChangeException

from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.viewer.enhance_panel import EnhancePanel
from difix3d_ns.viewer.panel import plain

RENDER = torch.rand(16, 24, 3, generator=torch.Generator().manual_seed(0))
PHOTO = torch.rand(16, 24, 3, generator=torch.Generator().manual_seed(1))


def machine(state: str = "high", waiting: str | None = None) -> SimpleNamespace:
    """The attributes of the viewer's render thread that the panel reads."""
    action = None if waiting is None else SimpleNamespace(action=waiting)
    return SimpleNamespace(state=state, next_action=action, running=True, interrupt_render_flag=waiting is not None)


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    make_tiny().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def panel(tiny_folder: Path) -> EnhancePanel:
    """A panel with a tiny network that is already loaded."""
    fixer = LazyFixer(DifixConfig(model=str(tiny_folder)), "cpu")
    assert fixer.load().network is not None
    return EnhancePanel(fixer, lambda *_: PHOTO)


def shown(panel: EnhancePanel, at: SimpleNamespace | None = None, render: torch.Tensor = RENDER) -> torch.Tensor:
    return panel.enhance(render, None, at or machine(), {})  # type: ignore[arg-type]


def finish_loading(panel: EnhancePanel) -> None:
    assert panel._loading is not None
    panel._loading.join(60)
    assert not panel._loading.is_alive()


def count_runs(panel: EnhancePanel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    runs: list[int] = []
    clean = panel._fixer.clean
    monkeypatch.setattr(panel._fixer, "clean", lambda *a, **k: runs.append(1) or clean(*a, **k))
    return runs


def test_a_camera_at_rest_gets_the_frame_enhanced_with_the_reference(panel: EnhancePanel) -> None:
    expected = panel._fixer.clean([RENDER], [PHOTO])[0]
    assert torch.equal(shown(panel), expected)
    assert not torch.equal(expected, RENDER)
    assert "24 x 16 pixels" in panel._status.text and "with a reference photo" in panel._status.text


@pytest.mark.parametrize("state", ["low_move", "low_static"])
def test_a_moving_camera_gets_the_render_without_running_the_network(
    panel: EnhancePanel, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    runs = count_runs(panel, monkeypatch)
    assert shown(panel, machine(state)) is RENDER
    assert not runs


def test_a_move_stops_the_network_between_its_layers_and_leaves_it_intact(panel: EnhancePanel) -> None:
    expected = panel._fixer.clean([RENDER], [PHOTO])[0]
    panel._fixer.load().network.reference_cache.clear()
    moving = machine()
    layers = [m for m in panel._fixer.load().network.unet.modules() if isinstance(m, torch.nn.Conv2d)]
    reached: list[int] = []

    def move(module: torch.nn.Module, inputs: object) -> None:
        reached.append(1)
        moving.next_action, moving.interrupt_render_flag = SimpleNamespace(action="move"), True

    hooks = [layer.register_forward_pre_hook(move) for layer in layers]
    assert shown(panel, moving) is RENDER
    assert len(reached) == 1
    assert not moving.interrupt_render_flag
    for hook in hooks:
        hook.remove()
    assert not any(layer._forward_pre_hooks for layer in layers)
    assert torch.equal(shown(panel), expected)


def test_a_training_step_in_between_does_not_stop_the_network(panel: EnhancePanel) -> None:
    assert shown(panel, machine(waiting="step")) is not RENDER


def test_the_same_frame_is_enhanced_once_and_the_strength_only_blends(
    panel: EnhancePanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(panel, monkeypatch)
    full = shown(panel)
    panel._strength.value = 0.25
    torch.testing.assert_close(shown(panel, render=RENDER.clone()), RENDER.lerp(full, 0.25))
    panel._strength.value = 0.0
    assert shown(panel) is RENDER
    assert len(runs) == 1
    panel._use_reference.value = False
    panel._strength.value = 1.0
    assert not torch.equal(shown(panel), full)
    assert len(runs) == 2
    assert "without a reference photo" in panel._status.text


def test_the_configured_strength_is_not_applied_twice(tiny_folder: Path) -> None:
    fixer = LazyFixer(DifixConfig(model=str(tiny_folder), strength=0.5), "cpu")
    assert fixer.load().network is not None
    torch.testing.assert_close(shown(EnhancePanel(fixer, lambda *_: PHOTO)), fixer.clean([RENDER], [PHOTO])[0])


def test_the_network_loads_while_frames_are_rendered(tiny_folder: Path) -> None:
    panel = EnhancePanel(LazyFixer(DifixConfig(model=str(tiny_folder)), "cpu"), lambda *_: None)
    assert shown(panel) is RENDER
    assert panel._status.text.startswith("Loading")
    finish_loading(panel)
    assert shown(panel) is not RENDER


def test_a_missing_network_is_tried_and_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts: list[int] = []
    load = DifixPipeline.from_pretrained
    monkeypatch.setattr(DifixPipeline, "from_pretrained", lambda *a, **k: attempts.append(1) or load(*a, **k))
    panel = EnhancePanel(LazyFixer(DifixConfig(model=str(tmp_path / "missing_network")), "cpu"), lambda *_: None)
    for _ in range(3):
        assert shown(panel) is RENDER
        finish_loading(panel)
    assert len(attempts) == 1
    assert capsys.readouterr().out.count("difix3d:") == 1
    assert "**Not enhanced:**" in panel._status.text and "missing\\_network" in panel._status.text


def test_another_network_replaces_the_first_but_a_missing_one_does_not(
    panel: EnhancePanel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, before = panel._fixer, shown(panel)
    panel.load(str(tmp_path / "missing_network"))
    finish_loading(panel)
    assert panel._fixer is first and torch.equal(shown(panel), before)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("difix3d:") == 1 and "The viewer still uses" in printed
    assert "**Not loaded:**" in panel._status.text
    panel.load(" embedded ")
    finish_loading(panel)
    assert panel._fixer is not first and panel._fixer.config.model == "embedded"
    assert not torch.equal(shown(panel), before)
    assert first.config.model != "embedded"
    panel.load(" ")
    assert "name a network" in panel._status.text


def test_a_network_chosen_while_another_loads_comes_next(
    panel: EnhancePanel, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_load, load = threading.Event(), DifixPipeline.from_pretrained

    def load_slowly(*given: object, **settings: object) -> DifixPipeline:
        assert may_load.wait(60)
        return load(*given, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(DifixPipeline, "from_pretrained", load_slowly)
    panel.load(str(tiny_folder))
    panel.load("identity")
    panel.load("embedded")
    may_load.set()
    finish_loading(panel)
    assert panel._fixer.config.model == "embedded" and panel._fixer.is_loaded
    panel.load("identity")
    finish_loading(panel)
    assert panel._fixer.config.model == "identity"


def test_a_frame_that_finds_no_network_does_not_undo_a_choice_made_meanwhile(
    panel: EnhancePanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, may_load, load = panel._fixer, threading.Event(), LazyFixer.load
    first._fixer = None
    click = threading.Thread(target=panel.load, args=("identity",))

    def load_slowly(fixer: LazyFixer) -> object:
        assert may_load.wait(60)
        return load(fixer)

    def is_loaded(fixer: LazyFixer) -> bool:
        if fixer is first and click.ident is None:  # the user clicks between two lines of the render thread
            click.start()
            click.join(0.5)
        return fixer._fixer is not None

    monkeypatch.setattr(LazyFixer, "load", load_slowly)
    monkeypatch.setattr(LazyFixer, "is_loaded", property(is_loaded))
    assert not panel._is_ready()
    click.join(60)
    may_load.set()
    finish_loading(panel)
    assert panel._fixer.config.model == "identity"


def test_a_network_that_is_replaced_leaves_the_memory(panel: EnhancePanel, tiny_folder: Path) -> None:
    panel.load("embedded")
    finish_loading(panel)
    shown(panel)
    replaced = weakref.ref(panel._fixer.load().network)
    panel.load(str(tiny_folder))
    finish_loading(panel)
    gc.collect()
    assert replaced() is None


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (lambda *a, **k: torch.full((1, 3, 16, 24), float("nan")), "returned NaN"),
        (lambda *a, **k: (_ for _ in ()).throw(torch.OutOfMemoryError("8 GB")), "lower Max res"),
    ],
)
def test_a_failed_frame_shows_the_render_and_one_sentence(
    panel: EnhancePanel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: Callable[..., torch.Tensor],
    sentence: str,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(panel._fixer.load().network, "decode", broken)
        for _ in range(2):
            assert shown(panel) is RENDER
    assert sentence in panel._status.text
    assert capsys.readouterr().out.count("difix3d:") == 1
    assert shown(panel) is not RENDER
    assert sentence not in panel._status.text


def test_a_fixer_that_fails_in_its_own_way_does_not_freeze_the_viewer(capsys: pytest.CaptureFixture[str]) -> None:
    faults: list[Exception] = [ValueError("its own fault"), ValueError("its own fault"), IOChangeException()]

    class Failing:
        def clean(self, renders: object, references: object, cameras: object) -> list[torch.Tensor]:
            raise faults.pop(0)

    panel = EnhancePanel(LazyFixer(DifixConfig(), "cpu", Failing()), lambda *_: None)
    assert shown(panel) is RENDER and shown(panel) is RENDER
    assert "ValueError: its own fault." in panel._status.text
    printed = capsys.readouterr()
    assert printed.out.count("difix3d:") == 1 and printed.err.count("Traceback") == 1
    with pytest.raises(IOChangeException):
        shown(panel)


def test_a_full_gpu_while_a_frame_is_cleared_ends_in_the_same_sentence(
    panel: EnhancePanel, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    clearing = EnhancePanel(panel._fixer, lambda *_: PHOTO, full)
    assert shown(clearing) is RENDER
    assert "lower Max res" in clearing._status.text and "Traceback" not in capsys.readouterr().err


def test_a_network_that_fails_to_load_in_its_own_way_is_tried_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def fail(*_: object, **__: object) -> None:
        attempts.append(1)
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(DifixPipeline, "from_pretrained", fail)
    panel = EnhancePanel(LazyFixer(DifixConfig(model=str(tiny_folder)), "cpu"), lambda *_: None)
    for _ in range(3):
        assert shown(panel) is RENDER
        finish_loading(panel)
    assert len(attempts) == 1
    assert "RuntimeError: CUDA error: unknown error." in panel._status.text


@pytest.mark.parametrize("has_reference", [True, False])
def test_frames_with_a_reference_are_cleared_of_what_no_photo_shows(panel: EnhancePanel, has_reference: bool) -> None:
    clearing = EnhancePanel(
        panel._fixer,
        lambda fixer, render, camera, outputs: outputs["photo"],
        lambda fixer, render, camera, outputs: (render / 4, {"photo": PHOTO}),
        lambda fixer, render, clean, camera, outputs: (clean + render) / 2,
    )
    clearing._use_reference.value = has_reference
    expected = panel._fixer.clean([RENDER], [None])[0]
    if has_reference:
        expected = (panel._fixer.clean([RENDER / 4], [PHOTO])[0] + RENDER / 4) / 2
    assert torch.equal(shown(clearing), expected)
    assert torch.equal(shown(clearing), expected), "the frame that is kept"


def test_a_panel_has_no_state_for_checkpoints(panel: EnhancePanel) -> None:
    assert not panel.state_dict() and not list(panel.parameters())


def test_markup_in_a_sentence_is_escaped() -> None:
    assert plain("a_b *c* <d> {e}\n f") == r"a\_b \*c\* \<d\> \{e\} f"
