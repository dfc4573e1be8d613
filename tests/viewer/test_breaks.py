"""The viewer renders between the views of a fix, although a fix comes in the middle of a training step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.viewer.render_state_machine import RenderStateMachine
from nerfstudio.viewer.utils import CameraState
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from training_runs import StubFixer, before_step, make_pipeline, training_callbacks

from difix3d_ns.pipeline import Difix3DPipeline
from difix3d_ns.viewer.breaks import Breaks

PATIENCE = 120
"""Seconds after which a test fails because two threads wait for each other."""
NUM_VIEWS = 5


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubFixer:
    """The fixer of all pipelines of a test."""
    stub = StubFixer()
    monkeypatch.setattr("difix3d_ns.fixing.lazy_fixer.make_fixer", lambda config, device: stub)
    return stub


@pytest.fixture
def pipeline(banana: Path, stub: StubFixer) -> Difix3DPipeline:
    """A pipeline that cleans its views one by one."""
    pipeline = make_pipeline(banana, fix_steps=(50, 80), planned_num_iterations=0)
    pipeline.config.difix.max_pixels_per_batch = 1
    return pipeline


class Lock:
    """A lock that knows which thread has it, and how often it was released."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.owner: threading.Thread | None = None
        self.num_releases = 0

    def acquire(self, timeout: float = -1) -> bool:
        acquired = self._lock.acquire(timeout=timeout)
        if acquired:
            self.owner = threading.current_thread()
        return acquired

    def release(self) -> None:
        self.owner, self.num_releases = None, self.num_releases + 1
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.fixture
def lock() -> Lock:
    """The trainer's lock."""
    return Lock()


@pytest.fixture
def viewer(pipeline: Difix3DPipeline, lock: Lock, tmp_path: Path) -> Iterator[Viewer]:
    """nerfstudio's viewer of the pipeline."""
    config = ViewerConfig(websocket_host="127.0.0.1", websocket_port=0)
    viewer = Viewer(config, tmp_path / "log", tmp_path, pipeline, train_lock=lock)  # type: ignore[arg-type]
    yield viewer
    viewer.render_statemachines.clear()
    viewer.viser_server.stop()


class OpenPage(RenderStateMachine):
    """The render thread of an open page whose camera never rests: it renders again and again.

    Args:
        viewer: the viewer, of which this is the only page.
        output: the output that the page shows.
    """

    def __init__(self, viewer: Viewer, output: str = "rgb") -> None:
        super().__init__(viewer, VISER_NERFSTUDIO_SCALE_RATIO, SimpleNamespace(client_id=0))  # type: ignore[arg-type]
        self.state = "high"
        self.num_frames = 0
        self._output = output
        viewer.control_panel._max_res.value = 64
        viewer.render_statemachines[0] = self

    def run(self) -> None:
        pose = torch.eye(4)[:3]
        while self.running:
            outputs = self._render_img(CameraState(0.8, 1.5, pose, CameraType.PERSPECTIVE))
            assert outputs[self._output].isfinite().all()
            self.num_frames += 1
            time.sleep(0.001)  # in which a page would send the frame


class TrainingThread(threading.Thread):
    """Does a training step before which novel views are fixed, as nerfstudio's trainer does it."""

    def __init__(self, lock: Lock, step: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._lock, self._step = lock, step
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            with self._lock:
                self._step()
                assert self._lock.owner is self
        except BaseException as error:
            self.failed = error

    def finish(self) -> None:
        self.start()
        self.join(PATIENCE)
        assert not self.is_alive(), "the fix does not end"
        if self.failed is not None:
            raise self.failed


def wait_for_frames(page: OpenPage, count: int) -> None:
    last, until = page.num_frames + count, time.monotonic() + PATIENCE
    while page.num_frames < last:
        assert page.is_alive() and time.monotonic() < until, "the page renders no more"
        time.sleep(0.01)


def end(page: OpenPage) -> None:
    page.running = False
    page.join(PATIENCE)
    assert not page.is_alive(), "the page does not end"


def test_an_open_page_is_rendered_between_the_views_of_a_fix(
    pipeline: Difix3DPipeline, viewer: Viewer, lock: Lock, stub: StubFixer, tmp_path: Path
) -> None:
    callbacks = training_callbacks(pipeline, tmp_path)
    page, frames = OpenPage(viewer), []
    add_some = stub.clean

    def clean(renders, references, cameras):
        assert pipeline.training
        frames.append(page.num_frames)
        time.sleep(0.05)
        assert page.num_frames <= frames[-1] + 1  # at most the one that was rendered before
        return add_some(renders, references, cameras)

    stub.clean = clean
    pipeline.train()
    training = TrainingThread(lock, lambda: before_step(callbacks, 50))
    page.start()
    training.finish()
    end(page)
    assert len(frames) == NUM_VIEWS and frames[-1] > frames[0] >= 1
    assert len(pipeline.datamanager.pseudo_views) == NUM_VIEWS
    assert pipeline.training and pipeline.model.training


def test_a_page_with_the_enhanced_output_and_a_fix_do_not_wait_for_each_other(
    pipeline: Difix3DPipeline, viewer: Viewer, lock: Lock, stub: StubFixer, tmp_path: Path
) -> None:
    callbacks, add_some = training_callbacks(pipeline, tmp_path), stub.clean
    pipeline.fixer.load()
    page = OpenPage(viewer, "rgb_enhanced")
    page_has_lock: list[bool] = []

    def clean(renders, references, cameras):
        if threading.current_thread() is page:
            page_has_lock.append(lock.owner is page)
        return add_some(renders, references, cameras)

    stub.clean = clean
    page.start()
    for step in (50, 80):
        TrainingThread(lock, lambda step=step: before_step(callbacks, step)).finish()
        wait_for_frames(page, 2)
    end(page)
    # A page that waits for the fixer must not have the lock, because a fix waits for the lock and has the fixer.
    assert page_has_lock and not any(page_has_lock)
    assert pipeline.datamanager.pseudo_views.step == 80


def open_page(lock: Lock | None) -> Any:
    """What breaks need to know of a viewer with one open page."""
    return SimpleNamespace(train_lock=lock, render_statemachines={0: "page"})


def test_only_the_training_thread_takes_breaks_and_only_while_a_page_is_open(lock: Lock) -> None:
    viewer = open_page(lock)
    breaks = Breaks(lambda: viewer)
    with lock:
        breaks.take()
        with breaks.allowed():
            other = threading.Thread(target=breaks.take)
            other.start()
            other.join()
            assert lock.num_releases == 0
            breaks.take()
            assert lock.num_releases == 1 and lock.owner is threading.current_thread()
            viewer.render_statemachines.clear()
            breaks.take()
        breaks.take()
        assert lock.num_releases == 1
    for without in (None, open_page(None)):
        breaks = Breaks(lambda without=without: without)
        with breaks.allowed():
            breaks.take()


def test_a_keyboard_interrupt_in_a_break_leaves_the_lock_to_the_trainer(
    lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks = Breaks(lambda: open_page(lock))

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("difix3d_ns.viewer.breaks.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt), lock, breaks.allowed():
        breaks.take()
    assert lock.owner is None
