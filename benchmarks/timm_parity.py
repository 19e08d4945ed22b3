"""Write results/timm_parity.csv: how far each network is from timm's with the same weights, both in float64.

    RESNET_TF_PEER_PYTHON=/path/to/python python benchmarks/timm_parity.py [TIMM ...]
    python benchmarks/timm_parity.py FOLDER  # of answers that benchmarks/peers/timm_answers.py wrote elsewhere

That interpreter has timm; it runs apart from TensorFlow. The numbers are the largest difference of the first 50 logits
of two images, at three sizes, over the standard deviation of the logits, with random weights and statistics
(tests/drawn.py). With names of networks, only their rows are written anew; a network that the peer has no memory for is
left out.

Both sides compute in float64, but for the variances of timm's EvoNorm, which are float32. In float32 each is 1e-6 from
that in most networks, 1e-4 with standardised kernels, whose sums cancel, and 1e-3 in ecaresnet269d, since hundreds
of layers with random weights amplify rounding.
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
    model = resnet_tf.create_model(row, graph=graph, input_shape=(None, None, 3), dtype="float64")
    weights.assign(model, weights.convert(model, drawn.weights(shapes, row)))
    result = {}
    for height, width in SIZES:
        key = f"{height}x{width}"
        logits = np.asarray(model(drawn.images(height, width), training=False)[:, :50])
        result[key] = float(np.abs(logits - golden[f"{key}/logits"]).max() / golden[f"{key}/std"])
    return sum(variable.size for variable in map(np.asarray, model.trainable_variables)), result


def main():
    """Compare the networks named, or all, and write the table after each."""
    asked = sys.argv[1:]
    if asked and pathlib.Path(asked[0]).is_dir():
        write(pathlib.Path(asked[0]))
        return
    python = os.environ.get("RESNET_TF_PEER_PYTHON")
    if not python:
        sys.exit("RESNET_TF_PEER_PYTHON: set it to an interpreter that has timm")
    script = ROOT / "benchmarks" / "peers" / "timm_answers.py"
    sizes = ",".join(f"{height}x{width}" for height, width in SIZES)
    wanted = [timm for timm in names() if not asked or timm in asked]
    for start in range(0, len(wanted), CHUNK):
        with tempfile.TemporaryDirectory() as folder:
            pairs = [f"{timm}={names()[timm]}" for timm in wanted[start : start + CHUNK]]
            subprocess.run([python, script, folder, sizes, *pairs], check=False)
            write(pathlib.Path(folder))


def write(folder):
    """Compare the networks whose answers are in a folder, and write the table after each."""
    rows = {}
    if TABLE.exists():
        with TABLE.open() as file:
            rows = {row["timm"]: row for row in csv.DictReader(file)}
    for path in sorted(folder.glob("*.npz"), key=lambda path: list(names()).index(path.stem)):
        rows[path.stem] = compared(path)
        print(*rows[path.stem].values(), flush=True)
        with TABLE.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[path.stem].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[name] for name in names() if name in rows)


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
