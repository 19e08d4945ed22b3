"""Memory of the host: over epochs of a stream, and of the index and the order of a set as large as ImageNet.

    python benchmarks/input_memory.py --data_dir=imagenette.tar --epochs=20
    python benchmarks/input_memory.py --entries=1281167

The first streams random resized crops of the training split and prints the resident memory (RSS) after each epoch.
The second makes as many files as ImageNet has, of one byte, in 1,000 folders of a temporary folder, indexes them as
--dataset=folder does, and reads the order of a whole epoch. Prints one JSON line last, in MiB.
"""

import argparse
import os
import pathlib
import resource
import sys
import tempfile
import time

import tensorflow as tf

from resnet_tf import files
from resnet_tf.data import batches, geometry, sources


def resident_mib():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def stream(data_dir, epochs, size, batch):
    source = sources.index("folder", data_dir)
    split = source.splits["train"]
    before, rows = resident_mib(), []
    views = iter(batches.training(split, geometry.View("random_resized_crop", size), batch=batch))
    for epoch in range(1, epochs + 1):
        for _ in range(len(split) // batch):
            next(views)
        rows.append(resident_mib())
        print(f"epoch {epoch}: {rows[-1]} MiB", file=sys.stderr)
    return {"examples": len(split), "indexed_mib": before, "first_epoch_mib": rows[0], "last_epoch_mib": rows[-1],
            "largest_mib": max(rows), "epochs": epochs}  # fmt: skip


def index(entries):
    before = resident_mib()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for split, count in (("train", entries), ("test", 1000)):
            for label in range(1000):
                (root / split / f"n{label:08d}").mkdir(parents=True)
            for number in range(count):
                # A name as long as ImageNet's.
                name = root / split / f"n{number % 1000:08d}" / f"n{number % 1000:08d}_{number}.JPEG"
                handle = os.open(name, os.O_CREAT | os.O_WRONLY)
                os.write(handle, b"x")
                os.close(handle)
        begun = time.monotonic()
        split = sources.index("folder", folder).splits["train"]
        seconds, indexed = time.monotonic() - begun, resident_mib()
        begun, seen = time.monotonic(), 0
        for start in range(0, len(split), 1024):
            position = tf.range(start, min(start + 1024, len(split)), dtype=tf.int64)
            seen += int(tf.size(batches.shuffled(position, 0, tf.zeros_like(position), len(split))))
        return {
            "entries": len(split), "imported_mib": before, "indexed_mib": indexed, "index_seconds": round(seconds, 1),
            "bytes_a_file": round((indexed - before) * 2**20 / len(split)), "shuffled": seen,
            "largest_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "shuffle_seconds": round(time.monotonic() - begun, 1),
        }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="folder or tar of images; streamed")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--image_size", type=int, default=160)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--entries", type=int, help="files to make and index")
    arguments = parser.parse_args()
    if bool(arguments.data_dir) == bool(arguments.entries):
        parser.error("give one of --data_dir and --entries")
    if arguments.data_dir:
        result = stream(arguments.data_dir, arguments.epochs, arguments.image_size, arguments.batch_size)
    else:
        result = index(arguments.entries)
    print(files.to_json(result))


if __name__ == "__main__":
    main()
