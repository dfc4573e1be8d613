"""Pretended machines: drivers, torches, CUDA toolkits and installations of gsplat, without any of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from difix3d_ns.machine.cuda_toolkit import CudaToolkit, find_toolkit
from difix3d_ns.machine.drivers import Driver, Gpu
from difix3d_ns.machine.facts import Machine
from difix3d_ns.machine.gsplat_kernels import GsplatInstall, GsplatKernels, find_kernels
from difix3d_ns.machine.torch_build import TorchBuild, gpu_gap

RTX = Gpu("NVIDIA GeForce RTX 4090", "24564 MiB")
OLD_DRIVER = Driver("535.183.01", (RTX,))
NEW_DRIVER = Driver("580.82.07", (RTX,))
CPU_TORCH = TorchBuild("2.14.1+cpu", None, usable=False)
BLIND_TORCH = TorchBuild("2.14.1+cu130", "13.0", usable=False)
TORCH = TorchBuild("2.14.1+cu130", "13.0", usable=True, architectures=("sm_75", "sm_86"), capabilities=((8, 9),))
GSPLAT = GsplatInstall("1.4.0")


class Computer:
    """A folder with the programs and files that decide whether kernels can be compiled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        self.environ = {"PATH": str(self.bin), "HOME": str(folder), "TORCH_EXTENSIONS_DIR": str(folder / "extensions")}
        self.nvcc_release = "13.0"
        self.extension = folder / "extensions" / "gsplat_cuda"

    def program(self, name: str, folder: Path | None = None) -> Path:
        file = (folder or self.bin) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o755)
        return file

    def with_compilers(self) -> Computer:
        self.program("ninja")
        self.program("c++")
        return self

    def with_toolkit(self, name: str = "cuda", headers: bool = True, on_path: bool = True) -> Path:
        home = self.folder / name
        self.program("nvcc", home / "bin")
        if headers:
            self.file(home / "include" / "cuda_runtime.h")
        if on_path:
            self.environ["PATH"] += f":{home / 'bin'}"
        return home

    def file(self, file: Path) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        return file

    def toolkit(self) -> CudaToolkit:
        release = f"Cuda compilation tools, release {self.nvcc_release}, V{self.nvcc_release}.88"
        return find_toolkit(self.environ, run=lambda command: release, default=self.folder / "default")

    def kernels(self, gsplat: GsplatInstall | None = GSPLAT, torch: TorchBuild = TORCH, **given) -> GsplatKernels:
        return find_kernels(gsplat, torch, self.toolkit(), self.environ, **given)


def machine(computer: Computer, driver: Driver | None = NEW_DRIVER, torch: TorchBuild = TORCH) -> Machine:
    kernels = computer.kernels(torch=torch)
    return Machine(driver, torch, computer.toolkit(), GSPLAT, kernels, gpu_gap(driver, torch))


def complete(folder: Path) -> Computer:
    """A computer on which gsplat can compile its kernels."""
    computer = Computer(folder).with_compilers()
    computer.with_toolkit()
    return computer


def seeing(*capabilities: tuple[int, int]) -> TorchBuild:
    """A torch that sees GPUs of these compute capabilities."""
    return replace(TORCH, capabilities=capabilities)
