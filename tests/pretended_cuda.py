"""A pretended CUDA device for machines without one: tensors say that they are on `cuda:0`, and the CPU computes them.

Within `pretended_cuda()`, code that asks for CUDA gets it. What this shows: operations that mix devices raise as on a
GPU, number formats are the real ones (a network in bfloat16 computes in bfloat16), and autocast casts. Gradients are
real, so whole trainings run. What it does not show: gsplat's kernels, for which the CPU's rasterization stands in, nor
memory, streams and speed. Gradients do not cross between devices, and a `torch.autograd.Function` has none here.

A tensor of the device is a wrapper without memory of its own. Its numbers, and the graph of its gradients, belong to a
tensor on the CPU inside. torch calls `__torch_dispatch__` for each operation on wrappers, and the mode's for each
operation at all, which is how tensors are created on the device.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
NAME = "pretended"
"""The name of the device, by which tests recognise it."""
COPIES = {"aten::_to_copy", "aten::copy_"}
"""Operations between devices."""
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Operations that put into a tensor, or take from it, what is at some indices."""
JOINING = {"aten::cat", "aten::stack"}
"""Operations that want even tensors without dimensions on one device; others take those from the CPU as numbers."""
ANSWERS: dict[str, Any] = {
    "_lazy_init": None,
    "current_device": 0,
    "device_count": 1,
    "empty_cache": None,
    "get_arch_list": ["sm_90"],
    "get_device_capability": (9, 0),
    "get_device_name": NAME,
    "is_available": True,
    "is_bf16_supported": True,
    "is_current_stream_capturing": False,
    "manual_seed": None,
    "manual_seed_all": None,
    "max_memory_allocated": 0,
    "mem_get_info": (64 << 30, 64 << 30),
    "memory_allocated": 0,
    "reset_peak_memory_stats": None,
    "set_device": None,
    "synchronize": None,
}
"""What functions of `torch.cuda` return."""


class CudaTensor(Tensor):
    """A tensor on the pretended device.

    Args:
        inside: its numbers, on the CPU.
    """

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> CudaTensor:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=CUDA,
        )
        made.inside = inside
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    @property
    def grad(self) -> Tensor | None:  # type: ignore[override]
        return _outside(self.inside.grad)

    @grad.setter
    def grad(self, value: CudaTensor | None) -> None:
        self.inside.grad = _inside(value)

    @property
    def absgrad(self) -> Tensor | None:
        """The absolute gradients that a rasterization leaves on the projected centres."""
        return _outside(getattr(self.inside, "absgrad", None))

    def backward(self, gradient: Tensor | None = None, *args: Any, **kwargs: Any) -> None:
        self.inside.backward(_inside(gradient), *args, **kwargs)

    def retain_grad(self) -> None:
        self.inside.retain_grad()

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        return self.inside.register_hook(lambda gradient: _inside(hook(CudaTensor(gradient))))

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor.__getitem__(self, _without_lists(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        Tensor.__setitem__(self, _without_lists(index), value)

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, device: Any = None, **kwargs: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or CUDA, **kwargs)

    def tolist(self) -> Any:
        return self.inside.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy: it is on the pretended device")

    __array__ = numpy

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A checkpoint is read to the CPU anyway, so it gets the tensor inside."""
        return self.inside.detach().requires_grad_(self.requires_grad).__reduce_ex__(protocol)

    def __repr__(self, **kwargs: Any) -> str:
        return f"CudaTensor({self.inside!r})"


class _Generator(torch.Generator):
    """A source of random numbers for one device, whose numbers are those of the CPU."""

    def __new__(cls, device: Any = CPU) -> _Generator:
        made = super().__new__(cls)
        made._placed = CUDA if _is_cuda(device) else CPU
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._placed


class _Device(TorchDispatchMode):
    """Creates tensors on the device, and checks operations on other tensors."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Python(TorchFunctionMode):
    """Does for the device what torch does in C++ before it calls an operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.pin_memory:
            return args[0]
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _is_cuda(kwargs.get("device")):
            del kwargs["device"]
            return func(*args, **kwargs).to(CUDA)
        if (generator := kwargs.get("generator")) is not None:
            # Here, because operations in C++ get another object for the generator.
            device = kwargs.get("device") or next((value.device for value in args if isinstance(value, Tensor)), CPU)
            if _is_cuda(device) != _is_cuda(generator.device):
                raise RuntimeError(f"expected a generator on {device} for {func}, found one on {generator.device}")
        return func(*args, **kwargs)


@contextmanager
def pretended_cuda(folder: Path) -> Iterator[None]:
    """A context in which torch has one CUDA device, in this thread, and gsplat has compiled kernels.

    Args:
        folder: an empty folder for a CUDA toolkit without content.

    torch remembers for the rest of the process that CUDA was set up, so use it only in a process of its own.
    """
    from difix3d_ns.rasterization import rasterization

    def stand_in(**arguments: Any) -> Any:
        """gsplat's rasterization."""
        tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
        if not all(isinstance(value, CudaTensor) for value in tensors):
            raise RuntimeError("gsplat wants all tensors on the GPU")
        result = tree_map(_outside, rasterization(**tree_map(_inside, arguments)))
        for value in tree_leaves(result):
            if isinstance(value, CudaTensor):
                value.requires_grad_(value.inside.requires_grad)
        return result

    cuda = torch.version.cuda or "12.8"
    answers = {name: lambda *args, answer=answer, **kwargs: answer for name, answer in ANSWERS.items()}
    torch._C._ensureCUDADeviceGuardSet()
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    # A module's parameters on the CPU cannot become wrappers in place.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            patch.multiple(torch.cuda, **answers),
            patch.object(torch.version, "cuda", cuda),
            patch.dict(sys.modules, {"gsplat.csrc": ModuleType("gsplat.csrc")}),
            patch.dict(os.environ, _toolkit(folder, cuda)),
            patch("torch.Generator", _Generator),
            patch("gsplat.rendering.rasterization", stand_in),
            _Python(),
            _Device(),
        ):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def _toolkit(folder: Path, cuda: str) -> dict[str, str]:
    """Makes the files by which this package finds gsplat's kernels; returns the environment variables that name them.

    Args:
        folder: where they are made.
        cuda: version of the toolkit.
    """
    programs = {"nvcc": f"echo release {cuda}", "ninja": "exit 1", "c++": "exit 1"}
    (folder / "bin").mkdir()
    for name, script in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    kernels = folder / "extensions" / "gsplat_cuda"
    kernels.mkdir(parents=True)
    (kernels / "gsplat_cuda.so").touch()
    return {
        "CUDA_HOME": str(folder),
        "PATH": f"{os.environ['PATH']}{os.pathsep}{folder / 'bin'}",  # at its end, so that real programs come first
        "TORCH_EXTENSIONS_DIR": str(kernels.parent),
    }


def _inside(value: Any) -> Any:
    """The tensor on the CPU inside one on the device; everything else unchanged."""
    if not isinstance(value, CudaTensor):
        return value
    if value.is_leaf and value.inside.is_leaf and value.requires_grad != value.inside.requires_grad:
        value.inside.requires_grad_(value.requires_grad)
    return value.inside


def _outside(value: Any) -> Any:
    """A tensor on the CPU as one on the device; everything else unchanged."""
    return CudaTensor(value) if isinstance(value, Tensor) and not isinstance(value, CudaTensor) else value


def _without_lists(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(_without_lists, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs one of torch's operations on the tensors inside.

    Raises:
        RuntimeError: it mixes tensors of the device with tensors on the CPU.
    """
    leaves, structure = tree_flatten((args, kwargs))
    on_device = any(isinstance(value, CudaTensor) for value in leaves)
    device = kwargs.get("device")
    to_cuda = on_device if device is None else _is_cuda(device)
    if not on_device and not to_cuda:
        return func(*args, **kwargs)
    name = func._schema.name
    _require_one_device(name, args, leaves, on_device, device)
    if name == "aten::_fused_sdp_choice":
        return 0  # the plain form of attention: the kernels for GPUs are not on the CPU
    inner_args, inner_kwargs = tree_unflatten([_inside(value) for value in leaves], structure)
    if device is not None:
        inner_kwargs = {**inner_kwargs, "device": CPU}
    inner_kwargs.pop("pin_memory", None)
    with _with_gradients() if on_device else nullcontext():
        result = func(*inner_args, **inner_kwargs)
    if name == "aten::_local_scalar_dense" or not to_cuda:
        return result
    written = _written_arguments(func)
    if not written:
        return tree_map(_outside, result)
    given = [kwargs[argument] if argument in kwargs else args[place] for place, argument in written]
    for tensor in given:
        if isinstance(tensor, CudaTensor) and tensor.shape != tensor.inside.shape:
            raise NotImplementedError(f"{name} changes the shape of a tensor on the pretended device")
    return given[0] if len(given) == 1 else tuple(given)


def _require_one_device(name: str, args: tuple[Any, ...], leaves: list[Any], on_device: bool, device: Any) -> None:
    """Raises RuntimeError if an operation mixes devices in a way that CUDA does not allow."""
    if not on_device or name in COPIES or device is not None:
        return
    tensors = [value for value in leaves if isinstance(value, Tensor)]
    if name in INDEXING and isinstance(args[0], CudaTensor):
        tensors = [args[0], *args[2:3]]  # indices may also be on the CPU
    on_cpu = [value for value in tensors if not isinstance(value, CudaTensor)]
    if name not in JOINING:
        on_cpu = [value for value in on_cpu if value.dim() > 0]
    if on_cpu:
        shapes = ", ".join(str(tuple(value.shape)) for value in on_cpu)
        raise RuntimeError(
            f"expected all tensors to be on the same device, found cuda:0 and cpu in {name}: of shape {shapes} on cpu"
        )


@cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Places and names of the arguments that an operation writes to and returns, such as that of `add_`."""
    returned = [value.alias_info for value in func._schema.returns]
    if not all(alias is not None and alias.is_write for alias in returned):
        return ()
    return tuple(
        (place, argument.name)
        for alias in returned
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.before_set == alias.before_set
    )


@contextmanager
def _with_gradients() -> Iterator[None]:
    """A context in which operations are recorded for gradients, which torch does not do below `__torch_dispatch__`."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "ADInplaceOrView"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded):
        yield
