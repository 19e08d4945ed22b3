"""Run a file of KellerJordan/cifar10-airbench on this machine's CIFAR-10 files, and summarise its runs.

    python benchmarks/peers/airbench.py --file=airbench94.py --data_dir=cifar-10-batches-bin --runs=20

FILE is airbench94.py, airbench94_compiled.py or airbench94_muon.py of that repository (MIT), which is not part of this
one; it is run unchanged, and ended after so many runs. DATA_DIR is the official binary version of CIFAR-10, unpacked;
its images are written as the file wants them, to WORK/cifar10. Of the runs that the file prints, the first one is its
warm-up and does not count. "seconds" is the file's own count: whitening, steps and the evaluation of six views of each
test image, by events of the GPU; compilation is in the warm-up. "top1_mirrored" is of these six views, "top1" of one.
Needs a GPU, torch and torchvision; nothing of resnet_tf.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

TRAIN, TEST = tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",)
_RECORD = 1 + 3 * 32 * 32
_SECONDS, _ACCURACY, _ONE_VIEW = ("total_time_seconds", "time_seconds"), "tta_val_acc", "val_acc"


def read(folder: pathlib.Path, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return images, uint8 [n, 32, 32, 3], and labels, int64 [n], of files of the binary version."""
    parts = []
    for name in names:
        path = folder / name
        if not path.is_file():
            raise SystemExit(f"--data_dir={folder}: no {name}; the official binary version of CIFAR-10 has it")
        data = np.frombuffer(path.read_bytes(), np.uint8)
        if not len(data) or len(data) % _RECORD:
            raise SystemExit(f"{path}: cut short")
        parts.append(data.reshape(-1, _RECORD))
    records = np.concatenate(parts)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)


def prepare(folder: pathlib.Path, work: pathlib.Path) -> None:
    """Write the files that airbench reads."""
    import torch

    names = folder / "batches.meta.txt"
    classes = names.read_text().split() if names.is_file() else [str(number) for number in range(10)]
    (work / "cifar10").mkdir(parents=True, exist_ok=True)
    for name, files in (("train", TRAIN), ("test", TEST)):
        images, labels = read(folder, files)
        content = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels), "classes": classes}
        torch.save(content, work / "cifar10" / f"{name}.pt")


class Table:
    """The table that a file of airbench prints: a row for each epoch, and one of the evaluation for each run.

    Attributes:
        finished: a {"seconds", "top1_mirrored", "top1"} for each run that is over.
    """

    def __init__(self):
        self.finished, self._columns, self._one_view = [], None, None

    def line(self, text: str) -> bool:
        """Take a line of output, and return whether it ended a run."""
        cells = [cell.strip() for cell in text.strip().strip("|").split("|")]
        if {"run", "epoch"} <= set(cells):
            self._columns = cells
            return False
        if not self._columns or len(cells) != len(self._columns):
            return False
        row = dict(zip(self._columns, cells, strict=True))
        self._one_view = row[_ONE_VIEW] or self._one_view
        if row["epoch"] != "eval":
            return False
        seconds = next(row[name] for name in _SECONDS if name in row)
        numbers = {"seconds": seconds, "top1_mirrored": row[_ACCURACY], "top1": self._one_view}
        self.finished.append({name: float(value) for name, value in numbers.items()})
        return True


def run(file: pathlib.Path, work: pathlib.Path, runs: int) -> tuple[list[dict], float]:
    """Run the file until `runs` runs after the warm-up are over; return them, and the seconds of the warm-up."""
    table, begun, warm = Table(), time.monotonic(), None
    command = [sys.executable, "-u", str(file.resolve())]
    with subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, text=True) as process:
        for text in process.stdout:
            if table.line(text):
                print(text.rstrip(), file=sys.stderr, flush=True)
                warm = warm or time.monotonic() - begun
            if len(table.finished) > runs:
                process.terminate()
                break
    if len(table.finished) < 2:
        raise SystemExit(f"--file={file}: it ended after {len(table.finished)} runs, with code {process.returncode}")
    return table.finished[1:], warm


def main() -> None:
    """Run and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", required=True, type=pathlib.Path)
    parser.add_argument("--data_dir", required=True, type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--target", type=float, default=0.94)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("airbench_work"), help="folder to write to")
    arguments = parser.parse_args()
    if not arguments.file.is_file():
        parser.error(f"--file={arguments.file}: no such file")
    prepare(arguments.data_dir, arguments.work)
    found, warm = run(arguments.file, arguments.work, arguments.runs)
    result = {"file": arguments.file.name, "runs": len(found), "target": arguments.target}
    result |= {"seconds": statistics.median(each["seconds"] for each in found), "warm_up_seconds": round(warm, 1)}
    for name in ("top1", "top1_mirrored"):
        values = [each[name] for each in found]
        result |= {name: statistics.fmean(values), f"{name}_sd": statistics.stdev(values) if len(values) > 1 else None}
        result[f"share_at_target_{name}"] = sum(value >= arguments.target for value in values) / len(values)
        result[f"each_{name}"] = values
    print(json.dumps(result))


if __name__ == "__main__":
    main()
