"""Image metrics against photos: PSNR, SSIM, and LPIPS if its network is available."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float
from pytorch_msssim import ssim
from torch import Tensor

from difix3d_ns.difix.lpips import fault_and_remedy, load_lpips
from difix3d_ns.printing import say


class ImageMetrics:
    """PSNR, SSIM and LPIPS (AlexNet) of an image against a photo.

    LPIPS needs weights that torchvision downloads at the first use, so a run can start and evaluate offline. LPIPS is
    then left out, and one line says so. This is not an `nn.Module`, so it adds nothing to checkpoints.
    """

    def __init__(self) -> None:
        self._lpips: Any | None = None
        self._lpips_looked_for = False

    def __call__(
        self,
        image: Float[Tensor, "height width 3"],
        photo: Float[Tensor, "height width 3"],
        mask: Bool[Tensor, "height width 1"] | None = None,
    ) -> dict[str, float]:
        """Metrics of `image` against `photo`, both in [0, 1] and on the same device.

        Args:
            image: the render.
            photo: the photo.
            mask: the photo's valid pixels; None if all are. The others do not count: SSIM and LPIPS are measured with
                both images equal there, and what these pixels add to the mean is taken out.

        Returns:
            `psnr` (dB), `ssim`, and `lpips` if available; NaN if no pixel is valid.
        """
        # Imported late, because torchmetrics imports transformers.
        from torchmetrics.functional.image import peak_signal_noise_ratio

        share = 1.0
        if mask is not None:
            mask = mask.to(photo.device)
            image, share = torch.where(mask, image, photo), float(mask.float().mean()) or math.nan
        image_batch, photo_batch = (x.detach().float().permute(2, 0, 1)[None] for x in (image, photo))
        psnr = float(peak_signal_noise_ratio(image_batch, photo_batch, data_range=1.0))
        metrics = {"psnr": psnr + 10 * math.log10(share)}
        with _full_precision(image.device):
            metrics["ssim"] = 1 - (1 - float(ssim(image_batch, photo_batch, data_range=1.0, size_average=True))) / share
            lpips = self._find_lpips(image.device)
            if lpips is not None:
                distance = lpips(image_batch.clamp(0, 1), photo_batch.clamp(0, 1), normalize=True)
                metrics["lpips"] = float(distance) / share
        return metrics

    def _find_lpips(self, device: torch.device) -> Any | None:
        if not self._lpips_looked_for:
            self._lpips_looked_for = True
            self._lpips = load_lpips("alex")
            if self._lpips is None:
                say(f"LPIPS is left out of the metrics: torchvision's AlexNet {fault_and_remedy('alex')}.")
        return None if self._lpips is None else self._lpips.to(device)


def _full_precision(device: torch.device) -> AbstractContextManager[None]:
    """A context in which convolutions on a GPU give the same figures as on the CPU.

    By default cuDNN rounds their inputs to 10 bits (TF32). The variances in SSIM are small differences of such values.
    """
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, deterministic=True, allow_tf32=False)
