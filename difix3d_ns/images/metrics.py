"""Image metrics against photos: PSNR, SSIM, and LPIPS where its network can be had."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from pytorch_msssim import ssim
from torch import Tensor

from difix3d_ns.difix.lpips import load_lpips


class ImageMetrics:
    """PSNR, SSIM and LPIPS (AlexNet) of an image against a photo.

    LPIPS needs a network that torchvision downloads. It is looked for at the first use and not at start, so a run
    without network starts and evaluates; LPIPS is then left out and one line says so. Being no `nn.Module`, this
    adds nothing to checkpoints.
    """

    def __init__(self) -> None:
        self._lpips: Any | None = None
        self._lpips_looked_for = False

    def __call__(
        self, image: Float[Tensor, "height width 3"], photo: Float[Tensor, "height width 3"]
    ) -> dict[str, float]:
        """Metrics of `image` against `photo`, both in [0, 1] and on one device.

        Returns:
            `psnr` (dB), `ssim`, and `lpips` where available.
        """
        # Loaded here, not with the plugin: torchmetrics loads transformers.
        from torchmetrics.functional.image import peak_signal_noise_ratio

        image_batch, photo_batch = (x.detach().float().permute(2, 0, 1)[None] for x in (image, photo))
        metrics = {
            "psnr": float(peak_signal_noise_ratio(image_batch, photo_batch, data_range=1.0)),
            "ssim": float(ssim(image_batch, photo_batch, data_range=1.0, size_average=True)),
        }
        lpips = self._find_lpips(image.device)
        if lpips is not None:
            metrics["lpips"] = float(lpips(image_batch.clamp(0, 1), photo_batch.clamp(0, 1), normalize=True))
        return metrics

    def _find_lpips(self, device: torch.device) -> Any | None:
        if not self._lpips_looked_for:
            self._lpips_looked_for = True
            if (lpips := load_lpips("alex")) is not None:
                self._lpips = lpips.to(device)
            else:
                CONSOLE.print(
                    "LPIPS is left out of the metrics: its AlexNet is neither cached nor can it be downloaded now."
                )
        return self._lpips
