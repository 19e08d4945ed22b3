"""Test pairs of predictions for the same test images, whichever system made them.

    python benchmarks/peers/paired.py --pairs=runs/ours:peers/theirs,runs/ours2:peers/theirs2 --out=significance.csv

Each side of a pair is a folder with examples.csv, as resnet_tf's training and evaluation and torch_imagenette.py write
it. Labels and file names must agree. Writes the columns of resnet_tf's significance.csv, McNemar's exact test with
Holm's correction over all pairs given, and prints one JSON line for each pair.
"""

import argparse
import csv
import json
import pathlib
import sys

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.evaluation import answers, significance


def _tails(predictions):
    """Return SPLIT/CLASS/FILE of each example, which is the same in a folder and in an archive of it."""
    return ["/".join(str(name).split("/")[-3:]) for name in predictions["name"]]


def compared(ours: pathlib.Path, theirs: pathlib.Path) -> dict:
    """Return a row of significance.csv without p_holm.

    Raises:
        InputError: a file is missing or damaged, or the two are of other images.
    """
    a, b = (answers.read(folder / answers.FILE) for folder in (ours, theirs))
    if not np.array_equal(a["label"], b["label"]) or _tails(a) != _tails(b):
        raise InputError(f"{ours} and {theirs}: predictions for other images")
    right = [answers.right(each) for each in (a, b)]
    a_only, b_only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    count = len(a["label"])
    values = (
        ours.name, theirs.name, "test", "test", count, a_only, b_only,
        *significance.difference(a_only, b_only, count), significance.mcnemar(a_only, b_only),
    )  # fmt: skip
    return dict(zip(significance.COLUMNS, values, strict=False))


def main() -> None:
    """Compare the pairs of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True, help="FOLDER:FOLDER, several separated by commas")
    parser.add_argument("--out", type=pathlib.Path, help="CSV file to write")
    arguments = parser.parse_args()
    pairs = [pair.split(":") for pair in arguments.pairs.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        parser.error("--pairs: each is FOLDER:FOLDER")
    try:
        rows = [compared(*map(pathlib.Path, pair)) for pair in pairs]
    except InputError as error:
        sys.exit(str(error))
    for row, adjusted in zip(rows, significance.holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
        print(json.dumps(row))
    if arguments.out:
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, significance.COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
