"""The facts of a machine that decide what can run on it, and the table that shows them."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from difix3d_ns.machine.cuda_toolkit import CudaToolkit, find_toolkit
from difix3d_ns.machine.drivers import MINIMUM_DRIVERS, Driver, find_driver
from difix3d_ns.machine.gaps import Gap
from difix3d_ns.machine.gsplat_kernels import GsplatInstall, GsplatKernels, find_gsplat, find_kernels
from difix3d_ns.machine.programs import Run, output_of
from difix3d_ns.machine.torch_build import TorchBuild, gpu_gap, torch_build

ON_THE_CPU = (
    "difix3d-mini trains here on the CPU in minutes, but difix3d takes days: its 30000 steps are made for GPUs."
)


@dataclass(frozen=True)
class Fact:
    """One row of the table."""

    name: str
    value: str
    remedy: str = ""
    """What to do, if something is missing; empty otherwise."""


@dataclass(frozen=True)
class Machine:
    """What decides whether this machine can train on a GPU."""

    driver: Driver | None
    torch: TorchBuild
    toolkit: CudaToolkit
    gsplat: GsplatInstall | None
    kernels: GsplatKernels
    gpu_gap: Gap | None
    """Why torch cannot use the GPU that is here; None if it can, or if there is none."""

    @property
    def trains_on_gpu(self) -> bool:
        """Whether `difix3d` can train on the GPU: torch can use it, and gsplat has its kernels or can build them."""
        return self.torch.usable and self.gpu_gap is None and self.kernels.status in ("built", "to be built")

    @property
    def verdict(self) -> str:
        """One sentence that says what can train here."""
        if self.trains_on_gpu:
            return "difix3d can train here."
        if self.gpu_gap is not None:
            return f"The GPU cannot be used yet: {ON_THE_CPU}"
        if not self.torch.usable:
            return f"There is no GPU: {ON_THE_CPU}"
        return "torch can use the GPU, but gsplat lacks its kernels, so difix3d cannot train on it yet."


def read_machine(device_type: str = "cuda", environ: Mapping[str, str] = os.environ) -> Machine:
    """Reads the facts of this machine, which takes up to a few seconds.

    Args:
        device_type: with `cpu`, a usable GPU is left alone; otherwise a CUDA context is made to ask what it can do.
        environ: environment variables.
    """
    torch, driver = torch_build(with_gpus=device_type == "cuda"), find_driver()
    toolkit, gsplat = find_toolkit(environ), find_gsplat()
    kernels = find_kernels(gsplat, torch, toolkit, environ)
    gap = gpu_gap(driver, torch, environ.get("CUDA_VISIBLE_DEVICES"))
    return Machine(driver, torch, toolkit, gsplat, kernels, gap)


def facts(machine: Machine) -> list[Fact]:
    """The facts of a machine's system, torch, driver, GPUs, CUDA toolkit and kernels."""
    cuda = f"built for CUDA {machine.torch.cuda}" if machine.torch.cuda else "built without CUDA"
    return [
        Fact("difix3d-ns", installed_version("difix3d-ns")),
        Fact("nerfstudio", installed_version("nerfstudio")),
        Fact("Python", f"{platform.python_version()} on {platform.platform()}"),
        Fact("CPU", f"{os.cpu_count()} cores"),
        Fact("torch", f"{machine.torch.version}, {cuda}"),
        _driver_fact(machine.driver),
        _gpu_fact(machine),
        _cuda_fact(machine),
        _nvcc_fact(machine),
        _kernels_fact(machine),
    ]


def installed_version(name: str) -> str:
    """Version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _driver_fact(driver: Driver | None) -> Fact:
    if driver is None:
        return Fact("NVIDIA driver", "none")
    newest = driver.newest_cuda
    if newest is None:
        return Fact("NVIDIA driver", f"{driver.version}, older than CUDA {min(MINIMUM_DRIVERS)}", "update it")
    return Fact("NVIDIA driver", f"{driver.version}, runs CUDA up to {newest}.x")


def _gpu_fact(machine: Machine) -> Fact:
    gpus = machine.driver.gpus if machine.driver else ()
    count = len(machine.torch.capabilities)
    unnamed = (
        f"{count} not listed by nvidia-smi" if count else "none listed by nvidia-smi" if machine.driver else "none"
    )
    return Fact("GPU", "; ".join(f"{gpu.name}, {gpu.memory}" for gpu in gpus) or unnamed)


def _cuda_fact(machine: Machine) -> Fact:
    if machine.gpu_gap is not None:
        return Fact("CUDA", machine.gpu_gap.fault, machine.gpu_gap.remedy)
    capabilities = ", ".join(f"{major}.{minor}" for major, minor in dict.fromkeys(machine.torch.capabilities))
    return Fact("CUDA", f"usable, compute capability {capabilities}" if machine.torch.usable else "no GPU to use")


def _nvcc_fact(machine: Machine) -> Fact:
    toolkit = machine.toolkit
    if toolkit.nvcc is None:
        value = f"none in {toolkit.home}, which {toolkit.home_from} names" if toolkit.home else "none"
        return Fact("nvcc", value)
    value = f"{toolkit.version or 'version unknown'}, {toolkit.nvcc} (from {toolkit.home_from})"
    return Fact("nvcc", value)


def _kernels_fact(machine: Machine) -> Fact:
    gsplat, kernels = machine.gsplat, machine.kernels
    value = f"gsplat {gsplat.version if gsplat else 'none'}, {kernels.status}: {kernels.reason}"
    needed = kernels.gap is not None and (machine.torch.usable or machine.driver is not None)
    return Fact("gsplat's kernels", value, kernels.gap.remedy if kernels.gap and needed else "")


def network_facts(device_type: str, resolve: Callable[..., Any] | None = None, lpips: Fact | None = None) -> list[Fact]:
    """Which Difix network the setting `auto` uses, its licence, and whether LPIPS can be measured.

    Args:
        device_type: `cuda` or `cpu`, where the network would run.
        resolve: as `resolve_difix`.
        lpips: as `lpips_fact`.
    """
    from difix3d_ns.difix.resolve import PUBLISHED_MODEL, resolve_difix

    # Asked for CUDA on every machine, so that the answer says whether the published weights are cached or reachable.
    published = (resolve or resolve_difix)("auto", "cuda")
    has_published = published.name == PUBLISHED_MODEL
    value = published.reason.rstrip(".")
    if has_published and device_type != "cuda":
        value += "; on the CPU, auto uses the embedded network"
    remedy = "" if has_published else f"on a machine with a connection, hf download {PUBLISHED_MODEL}"
    return [
        Fact("Difix network", value, remedy),
        Fact("Difix licence", f"{PUBLISHED_MODEL}: non-commercial, and the terms of SD-Turbo; embedded: MIT"),
        lpips or lpips_fact(),
    ]


def lpips_fact() -> Fact:
    """Whether LPIPS can be measured, by loading its network if that is cached."""
    from difix3d_ns.difix.lpips import (
        fault_of_backbone,
        load_lpips,
        lpips_backbone_available,
        lpips_backbone_cached,
        remedy_of_backbone,
    )

    name, needed = "LPIPS network", "without it, metrics have no LPIPS"
    if not lpips_backbone_cached("alex"):
        available = lpips_backbone_available("alex")
        value = "AlexNet, to be downloaded" if available else "AlexNet is missing"
        return Fact(name, value, "" if available else f"connect once; {needed}")
    if load_lpips("alex") is None:
        return Fact(name, f"AlexNet {fault_of_backbone('alex')}", f"{remedy_of_backbone('alex')}; {needed}")
    return Fact(name, "AlexNet is cached")


def ffmpeg_fact(environ: Mapping[str, str] = os.environ, run: Run = output_of) -> Fact:
    """The program ffmpeg, which `ns-render` needs."""
    program = shutil.which("ffmpeg", path=environ.get("PATH", ""))
    if program is None:
        return Fact("ffmpeg", "none", "apt install ffmpeg; only ns-render needs it, ns-difix render does not")
    words = (run([program, "-version"]) or "").split()
    return Fact("ffmpeg", f"{words[2]}, {program}" if len(words) > 2 else program)


def print_facts(rows: Sequence[Fact], verdict: str, console: Any = None) -> None:
    """Prints the facts as a table on a terminal, and otherwise as plain lines that survive in a bug report.

    Args:
        rows: the facts.
        verdict: the sentence that ends the output.
        console: a rich console; by default, one for the standard output.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(file=sys.stdout)
    if not console.is_terminal:
        width = max(len(row.name) for row in rows)
        for row in rows:
            print(f"{row.name + ':':{width + 1}} {row.value}", file=console.file)
            if row.remedy:
                print(f"{'':{width + 1}} -> {row.remedy}", file=console.file)
        print(verdict, file=console.file)
        return
    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(row.name, Text(row.value, "yellow" if row.remedy else ""))
    console.print(table)
    for row in rows:  # below the table, where commands can be copied
        if row.remedy:
            console.print(Text(f"{row.name} -> {row.remedy}"), soft_wrap=True)
    console.print(Text(verdict), soft_wrap=True)
