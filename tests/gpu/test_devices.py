"""What torch does with tensors on a GPU and on the CPU. These tests show that the pretended GPU is like a real one."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.gpu


def on_gpu(*shape: int) -> Tensor:
    return torch.rand(shape, device="cuda")


@pytest.mark.parametrize(
    "mix",
    [
        lambda: on_gpu(4, 3) + torch.rand(3),
        lambda: torch.rand(3) * on_gpu(),
        lambda: torch.where(on_gpu(3) > 0.5, torch.rand(3), on_gpu(3)),
        lambda: torch.stack([on_gpu(), torch.tensor(1.0)]),
        lambda: on_gpu(2, 3) @ torch.rand(3, 2),
        lambda: nn.functional.conv2d(on_gpu(1, 3, 8, 8), torch.rand(2, 3, 3, 3)),
        lambda: nn.Linear(3, 2)(on_gpu(3)),
        lambda: torch.rand(4)[torch.tensor([0, 1], device="cuda")],
        lambda: on_gpu(4).index_put_((torch.tensor([0, 1]),), torch.rand(2)),
        lambda: on_gpu(4).gather(0, torch.tensor([0])),
        lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda: torch.rand(3, generator=torch.Generator("cuda")),
    ],
)
def test_mixing_devices_raises(mix: Callable[[], Tensor]) -> None:
    with pytest.raises(RuntimeError):
        mix()


def test_numbers_and_indices_may_be_on_the_cpu() -> None:
    values = on_gpu(4, 3)
    assert torch.equal((values * torch.tensor(2.0)).cpu(), values.cpu() * 2)
    for index in ([0, 2], torch.tensor([0, 2]), torch.tensor([True, False, True, False]), (slice(None), [1])):
        assert torch.equal(values[index].cpu(), values.cpu()[index])
    values[torch.tensor([1])] = 0.0
    assert values.is_cuda and not values[1].any()


def test_numpy_wants_tensors_on_the_cpu() -> None:
    with pytest.raises(TypeError, match="cuda:0"):
        on_gpu(3).numpy()
    with pytest.raises(TypeError, match="cuda:0"):
        np.asarray(on_gpu(3))
    assert on_gpu(3).cpu().numpy().shape == (3,)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(3, device="cuda"),
        lambda: torch.tensor([1.0, 2.0], device="cuda"),
        lambda: torch.as_tensor(np.ones(3), device="cuda"),
        lambda: on_gpu(3).new_tensor([1.0]),
        lambda: on_gpu(3).new_zeros(2),
        lambda: torch.ones(3).cuda(),
        lambda: torch.ones(3).pin_memory().to("cuda", non_blocking=True),
        lambda: torch.empty_like(torch.ones(3), device="cuda"),
        lambda: copy.deepcopy(on_gpu(3)),
        lambda: nn.Parameter(on_gpu(3)),
        lambda: on_gpu(3).bfloat16(),
        lambda: torch.rand(3, device="cuda", generator=torch.Generator("cuda").manual_seed(1)),
    ],
)
def test_tensors_are_made_on_the_gpu(make: Callable[[], Tensor]) -> None:
    made = make()
    assert made.is_cuda and made.device == torch.device("cuda:0")
    assert not made.cpu().is_cuda


def test_gradients_and_steps_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    here = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(144, 1))
    there = copy.deepcopy(here).to("cuda")
    images, seen = torch.rand(2, 3, 8, 8), []
    for network, batch in ((here, images), (there, images.to("cuda"))):
        # A large `eps`, because Adam otherwise makes large steps of gradients that are 0 but for rounding.
        optimizer = torch.optim.Adam(network.parameters(), 1e-1, eps=1.0)
        for _ in range(3):
            optimizer.zero_grad()
            features = network(batch)
            features.register_hook(lambda gradient: seen.append(gradient.device.type) or gradient * 0.5)
            features.square().mean().backward()
            optimizer.step()
    assert seen == ["cpu"] * 3 + ["cuda"] * 3
    for mine, theirs in zip(here.parameters(), there.parameters(), strict=True):
        assert theirs.is_cuda and theirs.grad is not None and theirs.grad.is_cuda
        assert (mine - theirs.cpu()).abs().max() < 1e-3


def test_autocast_computes_products_in_half_precision() -> None:
    with torch.autocast("cuda", dtype=torch.float16):
        assert (on_gpu(3, 4) @ on_gpu(4, 3)).dtype is torch.float16
    with pytest.raises(RuntimeError):
        on_gpu(3, 4) @ on_gpu(4, 3).half()


def test_a_saved_tensor_is_read_on_the_cpu() -> None:
    file = io.BytesIO()
    torch.save({"weight": nn.Parameter(on_gpu(3))}, file)
    file.seek(0)
    assert torch.load(file, map_location="cpu", weights_only=True)["weight"].device.type == "cpu"
