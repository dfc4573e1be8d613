"""Random numbers that depend on the training step only, so that a resumed run draws what an uninterrupted one draws."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def random_numbers_of(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """A context in which random numbers depend on a seed and a step; afterwards they go on as if it had not been.

    Args:
        seed: the run's seed.
        step: the training step.
        device: a device whose random numbers are drawn, in addition to those of the CPU.
    """
    before = random.getstate()
    of_step = random.Random(f"{seed}-{step}").getrandbits(63)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(of_step)
        random.seed(of_step)
        try:
            yield
        finally:
            random.setstate(before)
