"""Views of square images on the device, for PyTorch peers: Pillow's antialiased bilinear scaling as matrix products.

Images are uint8 [n, 3, side, side]; views are float32 [n, 3, size, size] of whole levels in [0, 255].
"""

import math

import torch

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's
_TRIES = 10
_MARGIN, _STEP = 0.14, 8  # of evaluation: what is added to the size before the central crop, rounded up to 8 pixels


def weights(start: torch.Tensor, extent: torch.Tensor, side: int, size: int) -> torch.Tensor:
    """Return the weights of one axis: float32 [n, size, side].

    Args:
        start: first pixel of the part to scale, [n].
        extent: its number of pixels, [n].
        side: pixels of the image.
        size: pixels of the view.
    """
    start, factor = start.float()[:, None, None], (extent.float() / size)[:, None, None]
    device = start.device
    centres = start + (torch.arange(size, device=device)[:, None] + 0.5) * factor
    pixels = torch.arange(side, device=device) + 0.5
    values = (1 - (pixels - centres).abs() / factor.clamp(min=1)).clamp(min=0)
    values = values * ((pixels > start) & (pixels < start + extent.float()[:, None, None]))
    return values / values.sum(2, keepdim=True)


def scaled(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return images scaled by the weights of both axes and rounded to whole levels."""
    return (rows[:, None] @ images.float() @ columns[:, None].transpose(2, 3)).round().clamp(0, 255)


def random(images: torch.Tensor, size: int, least_area: float) -> torch.Tensor:
    """Return a random resized crop of each image, of aspect ratios 3/4 to 4/3, mirrored half of the time."""
    count, side, device = len(images), images.shape[-1], images.device
    area = torch.empty(count, _TRIES, device=device).uniform_(least_area, 1) * side * side
    ratio = torch.empty(count, _TRIES, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width <= side) & (height <= side)
    index = fits.float().argmax(1, keepdim=True)  # the first that fits
    found = fits.any(1)
    whole = torch.full_like(width[:, 0], side)
    width = torch.where(found, width.gather(1, index)[:, 0], whole)
    height = torch.where(found, height.gather(1, index)[:, 0], whole)
    top, left = (
        (torch.rand(count, device=device) * (side - extent + 1)).floor().clamp(max=side - extent)
        for extent in (height, width)
    )
    rows, columns = weights(top, height, side, size), weights(left, width, side, size)
    mirrored = (torch.rand(count, device=device) < 0.5)[:, None, None]
    return scaled(images, rows, torch.where(mirrored, columns.flip(1), columns))


def central(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return the view of evaluation: the whole image scaled to a little more than `size`, and its central crop."""
    side = images.shape[-1]
    target = size + math.ceil(size * _MARGIN / _STEP) * _STEP
    zero = torch.zeros(len(images), device=images.device)
    margin = (target - size) // 2
    lines = weights(zero, torch.full_like(zero, side), side, target)[:, margin : margin + size]
    return scaled(images, lines, lines)


def normalized(x: torch.Tensor) -> torch.Tensor:
    """Subtract ImageNet's mean and divide by its deviation."""
    mean, deviation = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (x - mean) / deviation


def jittered(x: torch.Tensor, strength: float) -> torch.Tensor:
    """Change brightness, contrast and saturation of each image by factors in 1 - strength to 1 + strength."""
    grey = torch.tensor((0.299, 0.587, 0.114), device=x.device).view(1, 3, 1, 1)
    factors = torch.empty(3, len(x), 1, 1, 1, device=x.device).uniform_(1 - strength, 1 + strength)
    x = (x * factors[0]).clamp(0, 255)
    mean = (x * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    x = (mean + (x - mean) * factors[1]).clamp(0, 255)
    tone = (x * grey).sum(1, keepdim=True)
    return (tone + (x - tone) * factors[2]).clamp(0, 255)


def mixed(x: torch.Tensor, targets: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each image and its target with those of another one, with a weight of at least one half of its own."""
    share = torch.distributions.Beta(alpha, alpha).sample((len(x),)).to(x.device)
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(len(x), device=x.device)
    own = share.view(-1, 1, 1, 1)
    return own * x + (1 - own) * x[other], share[:, None] * targets + (1 - share[:, None]) * targets[other]
