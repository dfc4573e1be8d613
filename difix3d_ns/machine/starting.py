"""What a training says about the machine before it loads photos."""

from __future__ import annotations

from difix3d_ns.errors import Difix3DError
from difix3d_ns.machine.facts import Machine

ON_CPU = (
    "on the CPU, ns-train runs with --machine.device-type cpu, and any other command with CUDA_VISIBLE_DEVICES=-1 "
    "before it"
)
DAYS_ON_CPU = {
    "difix3d": "On the CPU, difix3d takes days: each of its 30000 steps renders a photo at full size, with up to "
    "millions of Gaussians, which takes a CPU seconds. ns-train difix3d-mini takes minutes.",
    "difix3d-nerfacto": "On the CPU, difix3d-nerfacto takes days with its usual settings: each of 30000 steps sends "
    "4096 rays through a large field, which takes a CPU seconds. The settings for a CPU in .docs/settings.md take "
    "minutes.",
}
"""What to know about a method whose usual settings are for a GPU."""


def require_one_process(method_name: str | None, world_size: int) -> None:
    """Makes sure that one process trains the scene.

    Several would write the same files and draw the same views, and densification replaces parameters, which torch's
    distributed training does not allow.

    Args:
        method_name: the command that trains.
        world_size: number of processes, one per GPU.

    Raises:
        Difix3DError: there are several.
    """
    if world_size > 1:
        raise Difix3DError(
            f"{method_name} trains a scene on one GPU, and {world_size} are requested: leave --machine.num-devices "
            "and --machine.num-machines at 1 and train one scene per GPU, each with its own CUDA_VISIBLE_DEVICES. "
            "Several GPUs work for ns-difix curate, train and enhance, by accelerate launch."
        )


def cuda_fault(machine: Machine, needs_gsplat: bool = True) -> str | None:
    """Why nothing can run on CUDA here, as a sentence that says what to do; None if it can.

    Args:
        machine: what is known about this machine.
        needs_gsplat: whether rendering needs gsplat's kernels, as that of splats does.
    """
    if not machine.torch.usable:
        if machine.gpu_gap is None:
            return "there is no usable CUDA device here: add --machine.device-type cpu."
        return f"{machine.gpu_gap.fault}: {machine.gpu_gap.remedy}; {ON_CPU}."
    if needs_gsplat and machine.kernels.status == "impossible" and machine.kernels.gap is not None:
        return f"{machine.kernels.gap.fault}: {machine.kernels.gap.remedy}; {ON_CPU}."
    return None


def cuda_remarks(machine: Machine, needs_gsplat: bool = True) -> list[str]:
    """Sentences about a GPU that can be used: what will probably fail, and what takes minutes before the first step."""
    remarks = [] if machine.gpu_gap is None else [str(machine.gpu_gap)]
    if not needs_gsplat:
        return remarks
    if machine.kernels.status == "in doubt":
        remarks.append(f"gsplat's kernels will probably not compile, as {machine.kernels.gap}")
    if machine.kernels.status == "to be built":
        remarks.append(f"gsplat's kernels are not compiled yet: {machine.kernels.reason}.")
    return remarks


def cpu_remarks(machine: Machine, method_name: str | None) -> list[str]:
    """Sentences about a training on the CPU: why a GPU that is here is not used, and how long the method takes."""
    remarks = [] if machine.gpu_gap is None else [f"{machine.gpu_gap} Training uses the CPU."]
    return remarks + [text for method, text in DAYS_ON_CPU.items() if method == method_name]
