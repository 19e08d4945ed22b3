"""Folders of runs as training leaves them, their comparison by the command, and its page read: for several tests."""

import csv
import html.parser
import json
import re

import numpy as np
import yaml

from resnet_tf import compare, config
from resnet_tf.evaluation import answers
from resnet_tf.runs import record

EXAMPLES, TRAINING = 1000, 5000


def make_run(folder, seed=0, right=0.9, epochs=4, done=None, changes=(), hard=None, **flags):
    """Write a run's folder as training leaves it, without checkpoints and events; returns the folder.

    Args:
        folder: path.
        seed: of the run.
        right: part of the test examples that it has right, the easiest ones but for some that the seed chooses.
        epochs: as planned.
        done: epochs behind it; all where None.
        changes: of the manifest: {key: value}.
        hard: how hard each test example is; by number where None.
        **flags: of the run.
    """
    settings = {"model": "cifar_resnet20_v1", "dataset": "synthetic", "batch_size": 50, "train_epochs": float(epochs)}
    chosen = config.from_settings(config.TrainConfig, settings | {"seed": seed} | flags, "test")
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in config.settings_of(chosen).items()}
    manifest = {
        "command": "python -m resnet_tf.train", "commit": "0123456789ab", "created": "2026-01-01T00:00:00+00:00",
        "hardware": "NVIDIA H100 80GB HBM3 x2", "versions": "python 3.12", "model": {},
        "data": {"examples": {"train": TRAINING, "test": EXAMPLES}, "checksum": "00ff"},
        "classes": [f"class{i}" for i in range(10)], "flags": plain,
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest | dict(changes), sort_keys=False))
    rng, done = np.random.default_rng(seed), epochs if done is None else done
    wrong = np.argsort(np.arange(EXAMPLES) if hard is None else hard)[round(right * EXAMPLES) :]
    labels = np.arange(EXAMPLES) % 10
    logits = rng.normal(0, 0.1, (EXAMPLES, 10)) + 5.0 * np.eye(10)[labels]
    logits[wrong, (labels[wrong] + 1) % 10] += 9.0
    given_answers = answers.of_logits(logits, labels)
    answers.write(folder / answers.FILE, given_answers)
    top1 = float((given_answers["predicted"] == labels).mean())
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, record.METRICS_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for epoch in range(1, done + 1):
            error = (1 - top1) * (1 + 4 * (1 - epoch / done)) + rng.normal(0, 0.002)
            for part, split in ((0.5, "train"), (1, "train"), (1, "test")):
                row = {"step": round((epoch - 1 + part) * 100), "epoch": epoch - 1 + part, "split": split}
                row |= {"wall_seconds": 36 * (epoch - 1 + part), "loss": round(3 * error, 6), "top5": 0.99}
                row["top1"] = top1 if split == "test" and epoch == done else round(1 - error, 6)
                writer.writerow(row | ({"images_per_second": 1000 + epoch} if split == "train" else {}))
    evaluation = {"run": str(folder), "steps": 100 * done, "split": "test", "examples": EXAMPLES, "top1": top1}
    (folder / "evaluation.json").write_text(json.dumps(evaluation | {"top5": 0.99, "loss": 0.3}))
    return folder


def run_command(folders, out, *flags):
    return compare.main([*map(str, folders), f"--out={out}", *flags])


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Page(html.parser.HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


def check_page(text):
    """Nothing is fetched, nothing runs, ids are unique."""
    shown = Page(text)
    assert not {"script", "img", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in shown.elements}
    links = [*shown.attributes("src"), *shown.attributes("href"), *shown.attributes("xlink:href")]
    ids = shown.attributes("id")
    assert all(link == "data:," or link.removeprefix("#") in ids for link in links)
    assert all(target in ids for target in re.findall(r"url\(#([^)]*)\)", text))
    assert text.count("url(") == text.count("url(#") and "@import" not in text
    assert len(set(ids)) == len(ids)
    assert not any(name.startswith("on") for _, attributes in shown.elements for name in attributes)
    return shown
