"""Write what timm's networks answer in float64, as make_goldens.py does, for benchmarks/timm_parity.py.

    python benchmarks/peers/timm_answers.py FOLDER HEIGHTxWIDTH[,...] TIMM=ROW ...

Needs timm, torch and NumPy. One file a network, FOLDER/TIMM.npz.
"""

import pathlib
import sys

import make_goldens
import numpy as np
import torch


def main():
    """Write the files of the networks named."""
    folder, sizes, *pairs = sys.argv[1:]
    sizes = [tuple(map(int, size.split("x"))) for size in sizes.split(",")]
    for timm_name, row in (pair.split("=") for pair in pairs):
        np.savez(pathlib.Path(folder) / f"{timm_name}.npz", **make_goldens.golden(timm_name, row, sizes, torch.float64))


if __name__ == "__main__":
    main()
