"""How far a result is from the fp32 reference."""

import logging
import warnings
from functools import cache

import numpy as np
import torch
from skimage.metrics import structural_similarity

from experiments.data import LoadedClip
from propainter import InputError, Schedule
from propainter.compositing import prepare_masks, process_size, resize_masks
from propainter.weights import download, find, hub_folder, read_checkpoint

log = logging.getLogger(__name__)

_ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"


def hole_of(clip: LoadedClip, schedule: Schedule) -> np.ndarray:
    """bool [T, H, W]: the pixels that inpainting replaces (the masks after dilation, at the clip's size)."""
    size = clip.masks.shape[1:]
    dilation = schedule.mask_dilation if clip.flow_masks is None else 0
    holes = prepare_masks(clip.masks, process_size(*size), dilation)
    return resize_masks(holes, size).astype(bool)


def compare(result: np.ndarray, reference: np.ndarray, hole: np.ndarray, *, with_lpips: bool) -> dict[str, object]:
    """The record's `quality`: final uint8 frames against the reference's.

    Args:
        result, reference: uint8 [T, H, W, 3].
        hole: bool [T, H, W].
        with_lpips: false leaves LPIPS null.

    Returns:
        `identical`; `psnr_db` and `psnr_hole_db`, of the mean squared error over all frames (null where that part is
        identical); `ssim`, mean over frames; `lpips` (AlexNet), mean over frames, or null and `lpips_reason`;
        `max_abs_error` in steps of uint8.
    """
    error = np.abs(result.astype(np.int16) - reference.astype(np.int16))
    score, reason = (None, "left out by quality.lpips=false")
    if with_lpips:
        score, reason = lpips_distance(result, reference)
    return {
        "identical": not error.any(),
        "psnr_db": psnr_db(error),
        "psnr_hole_db": psnr_db(error[hole]),
        "ssim": float(np.mean([_ssim(a, b) for a, b in zip(result, reference, strict=True)])),
        "lpips": score,
        **({"lpips_reason": reason} if score is None else {}),
        "max_abs_error": int(error.max()),
    }


def psnr_db(error: np.ndarray) -> float | None:
    """PSNR of absolute errors in steps of uint8, in dB; None where there is none, or nothing to compare."""
    mean_square = float(np.mean(np.square(error, dtype=np.float64))) if error.size else 0.0
    return 10 * float(np.log10(255**2 / mean_square)) if mean_square else None


def _ssim(image: np.ndarray, reference: np.ndarray) -> float:
    return structural_similarity(image, reference, channel_axis=2, data_range=255)


def lpips_distance(result: np.ndarray, reference: np.ndarray) -> tuple[float | None, str | None]:
    """Mean LPIPS (AlexNet) over frames, 0 = alike; or None and the reason."""
    network, reason = _lpips_network()
    if network is None:
        return None, reason
    total = 0.0
    with torch.inference_mode():
        for pair in zip(result, reference, strict=True):
            a, b = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in pair)
            total += float(network(a, b))
    return total / len(result), None


@cache
def _lpips_network() -> tuple[torch.nn.Module | None, str | None]:
    """The network, its AlexNet weights downloaded on first use; or None and the reason. Once per process."""
    name = _ALEXNET.rsplit("/", 1)[-1]
    try:
        path = find(name, [hub_folder()])
        if path is None:
            log.info("downloading AlexNet's weights for LPIPS")
            path = download(_ALEXNET, hub_folder(), check=read_checkpoint)
        return build_lpips(read_checkpoint(path)), None
    except InputError as error:
        reason = "no AlexNet weights for LPIPS (not in torch's hub cache, no download)"
        log.warning("LPIPS is left out: %s", reason)
        log.debug("%s", error)
        return None, reason


def build_lpips(alexnet: dict[str, torch.Tensor]) -> torch.nn.Module:
    """LPIPS over the given AlexNet (torchvision's state dict), with the linear layers that lpips ships."""
    import lpips  # slow to import, and needed here only

    with warnings.catch_warnings():
        # lpips asks torchvision for AlexNet by an argument that torchvision has deprecated.
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    # lpips cuts AlexNet's features into slices, in which the layers keep their numbers.
    names = {name: "features." + name.split(".", 1)[1] for name in network.net.state_dict()}
    network.net.load_state_dict({name: alexnet[source] for name, source in names.items()})
    return network.eval()
