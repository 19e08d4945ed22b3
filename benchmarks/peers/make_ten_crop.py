"""Make tests/golden/views/ten_crop.npz with torchvision: `python benchmarks/peers/make_ten_crop.py`.

The margins are even: where they are odd torchvision rounds the centre to an even number and we round down.
"""

import pathlib

import numpy as np
import torch
from torchvision.transforms import functional

image = np.random.default_rng(0).integers(0, 256, (40, 58, 3), np.uint8)
crops = functional.ten_crop(torch.from_numpy(image).permute(2, 0, 1), 24)
path = pathlib.Path(__file__).parents[2] / "tests" / "golden" / "views" / "ten_crop.npz"
np.savez_compressed(path, image=image, crops=torch.stack(crops).permute(0, 2, 3, 1).numpy())
