"""Write results/timm_parity.csv: how far each network is from timm's in float64 with the same weights, at three sizes.

    RESNET_TF_PEER_PYTHON=/path/to/python python benchmarks/timm_parity.py [TIMM ...]

That interpreter has timm; it runs apart from TensorFlow. The numbers are the largest difference of the first 50 logits
of two images, over the standard deviation of the logits, with random weights and statistics (tests/drawn.py). With
names of networks, only their rows are written anew; a network that the peer has no memory for is left out.

Standardised kernels have mean zero while activations do not, so that sums cancel: timm's own float32 is 1e-4 from its
float64 in resnetv2_50x1_bit, and 1e-6 in the other networks.
"""

import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
TABLE = ROOT / "results" / "timm_parity.csv"
CHUNK = 8  # networks that one process of the peer answers for
SIZES = ((96, 96), (97, 97), (64, 96))  # even, odd, not square
sys.path.insert(0, str(ROOT / "tests"))

import drawn  # noqa: E402
import keras  # noqa: E402

import resnet_tf  # noqa: E402
from resnet_tf.models import architectures, weights  # noqa: E402


def names():
    """Every name of timm that is a row here: {timm's: ours}."""
    return {timm: architectures.of_timm(timm) for timm in architectures.names_of_timm()}


def differences(timm, row, golden):
    """Return the number of parameters and {size: relative difference}."""
    shapes = {key: tuple(shape) for key, shape in json.loads(str(golden["shapes"])).items()}
    graph = "timm" if timm in ("resnetv2_18", "resnetv2_34") else None
    model = resnet_tf.create_model(row, graph=graph, input_shape=(None, None, 3))
    weights.assign(model, weights.convert(model, drawn.weights(shapes, row)))
    result = {}
    for height, width in SIZES:
        key = f"{height}x{width}"
        logits = np.asarray(model(drawn.images(height, width), training=False)[:, :50])
        result[key] = float(np.abs(logits - golden[f"{key}/logits"]).max() / golden[f"{key}/std"])
    return sum(variable.size for variable in map(np.asarray, model.trainable_variables)), result


def main():
    """Compare the networks named, or all, and write the table after each."""
    python = os.environ.get("RESNET_TF_PEER_PYTHON")
    if not python:
        sys.exit("RESNET_TF_PEER_PYTHON: set it to an interpreter that has timm")
    rows = {}
    if TABLE.exists():
        with TABLE.open() as file:
            rows = {row["timm"]: row for row in csv.DictReader(file)}
    script = ROOT / "benchmarks" / "peers" / "timm_answers.py"
    sizes = [f"{height}x{width}" for height, width in SIZES]
    wanted = [timm for timm in names() if not sys.argv[1:] or timm in sys.argv[1:]]
    for start in range(0, len(wanted), CHUNK):
        chunk = wanted[start : start + CHUNK]
        with tempfile.TemporaryDirectory() as folder:
            pairs = [f"{timm}={names()[timm]}" for timm in chunk]
            subprocess.run([python, script, folder, ",".join(sizes), *pairs], check=False)
            for path in sorted(pathlib.Path(folder).glob("*.npz"), key=lambda path: chunk.index(path.stem)):
                rows[path.stem] = compared(path)
                print(*rows[path.stem].values(), flush=True)
                with TABLE.open("w", newline="") as file:
                    writer = csv.DictWriter(file, ["timm", "network", "parameters", *sizes], lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows[name] for name in names() if name in rows)
    lacking = [timm for timm in names() if timm not in rows]
    if lacking:
        print(f"not compared: {', '.join(lacking)}", file=sys.stderr)


def compared(path):
    """Return the row of the table for the answers of one network."""
    row = names()[path.stem]
    with np.load(path) as golden:
        parameters, found = differences(path.stem, row, golden)
    keras.backend.clear_session()
    digits = {key: f"{value:.1e}" for key, value in found.items()}
    return {"timm": path.stem, "network": row, "parameters": parameters, **digits}


if __name__ == "__main__":
    main()
