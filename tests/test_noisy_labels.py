"""Other labels of the training images: a column of a table, of which nothing may be wrong."""

import csv
import hashlib
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import yaml

from resnet_tf import evaluate, train
from resnet_tf.data import sources
from resnet_tf.errors import InputError
from resnet_tf.runs import restore, run_data

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

CLASSES = ("n01", "n02", "n03")
# The header and the form of the rows of noisy_imagenette.csv of fastai/imagenette, commit b291a94.
HEADER = ("path", *(f"noisy_labels_{share}" for share in (0, 1, 5, 25, 50)), "is_valid")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six training and three test images of each of three classes."""
    root = tmp_path_factory.mktemp("images") / "set"
    for index in range(27):
        path = root / ("train" if index < 18 else "val") / CLASSES[index % 3] / f"{CLASSES[index % 3]}_{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(np.full((16, 16, 3), 9 * index, np.uint8)).numpy())
    with tarfile.open(root.parent / "set.tar", "w") as tar:
        tar.add(root, "set")
    return root


def rows_of(folder):
    """The public table: with 50% noise, every other training image has the next class; test images have their own."""
    rows = []
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        name, own = path.relative_to(folder).as_posix(), path.parent.name
        is_valid = name.startswith("val")
        noisy = own if is_valid or number % 2 else CLASSES[(CLASSES.index(own) + 1) % 3]
        rows.append([name, own, own, own, own, noisy, is_valid])
    return rows


def write(path, rows, header=HEADER, delimiter=","):
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def labels_of(source, split):
    examples = source.splits[split]
    return {name: source.classes[label] for name, label in zip(examples.names, examples.labels, strict=True)}


@pytest.mark.parametrize("held", ["set", "set.tar"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_column_replaces_training_labels_alone(held, delimiter, folder, tmp_path):
    table = write(tmp_path / "noisy.csv", rows_of(folder), delimiter=delimiter)
    data = {"data_dir": str(folder.parent / held), "val_is": "test"}
    plain = sources.index("folder", **data)
    noisy = sources.index("folder", **data, labels=f"{table}:noisy_labels_50", validation_examples=6)
    wanted = {name.rpartition("/")[2]: label for name, *_, label, _ in rows_of(folder)}
    found = labels_of(noisy, "train")
    assert len(found) == 12 and found == {name: wanted[name.rpartition("/")[2]] for name in found}
    assert 0 < noisy.relabelled["changed"] < 12 and noisy.checksum() != plain.checksum()
    for split in ("validation", "test"):  # their own, also of what was held out of the training images
        assert all(label in name for name, label in labels_of(noisy, split).items())
    clean = sources.index("folder", **data, labels=f"{table}:noisy_labels_0")
    assert clean.relabelled["changed"] == 0 and clean.checksum() == plain.checksum()
    held_in_memory = sources.load("folder", image_size=16, **data, labels=f"{table}:noisy_labels_50")
    whole = sources.index("folder", **data, labels=f"{table}:noisy_labels_50")
    assert labels_of(held_in_memory, "train") == labels_of(whole, "train")
    assert whole.relabelled["changed"] == sum(row[1] != row[5] for row in rows_of(folder))


def test_a_run_records_its_labels(folder, tmp_path, last_json):
    table = write(tmp_path / "noisy.csv", rows_of(folder))
    flags = ["--dataset=folder", f"--data_dir={folder}", f"--labels={table}:noisy_labels_50", "--val_is=test"]
    flags += ["--image_size=16", "--pad=1", "--model=cifar_resnet8_v1", "--batch_size=6", "--train_steps=2"]
    assert train.main([*flags, "--test_share=0", "--validation_share=0.3", f"--out={tmp_path}/run"]) == 0
    labels = yaml.safe_load((tmp_path / "run" / "manifest.yaml").read_text())["data"]["labels"]
    assert labels["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest() and labels["file"] == str(table)
    assert labels["column"] == "noisy_labels_50" and labels["changed"] > 0
    table.unlink()  # the run has its own table of the split
    source, _ = run_data.load(run_data.as_recorded(restore.load(tmp_path / "run")[0].config, tmp_path / "run"))
    assert sum(label not in name for name, label in labels_of(source, "train").items()) == labels["changed"]
    assert all(label in name for split in ("validation", "test") for name, label in labels_of(source, split).items())
    assert evaluate.main([f"--run={tmp_path}/run"]) == 0 and last_json()["examples"] == 9


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda rows: [*rows[:-1], ["train/n01/none.png", *rows[-1][1:]]], "line 28: train/n01/none.png is no image"),
        (
            lambda rows: [[*rows[0][:5], "n09", False], *rows[1:]],
            "line 2: 'n09' is no class of the images, which are n01",
        ),
        (lambda rows: rows[3:], "3 of 18 training images have no row: "),
        (lambda rows: [*rows, rows[0]], "train/n01/n01_0.png is in line 2 and again in line 29"),
        (lambda rows: [[*rows[0][:5], "", False], *rows[1:]], "line 2: no noisy_labels_50"),
        (lambda rows: [], "18 of 18 training images have no row"),
    ],
    ids=["unknown image", "unknown class", "without a row", "twice", "empty", "no rows"],
)
def test_every_wrong_row_is_one_line(change, named, folder, tmp_path, capsys):
    table = write(tmp_path / "noisy.csv", change(rows_of(folder)))
    flags = ["--dataset=folder", f"--data_dir={folder}", f"--labels={table}:noisy_labels_50", "--train_steps=1"]
    assert train.main([*flags, "--image_size=16", "--batch_size=6", f"--out={tmp_path}/run"]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"error: --labels={table}:noisy_labels_50") and named in line
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_asked_is_refused(folder, tmp_path):
    table = write(tmp_path / "noisy.csv", rows_of(folder))
    for labels, more, named in (
        (f"{table}:noisy", {}, "there is no column noisy, only path, noisy_labels_0"),
        (f"{tmp_path}/none.csv:noisy", {}, "No such file"),
        (f"{table}:noisy_labels_5", {"classes": ("n01", "n02")}, "not used with --classes"),
    ):
        with pytest.raises(InputError, match=named):
            sources.index("folder", str(folder), labels=labels, **more)
    with pytest.raises(InputError, match="there is no column of files, such as path, only what, noisy"):
        write(tmp_path / "other.csv", [["x", "n01"]], ("what", "noisy"))
        sources.index("folder", str(folder), labels=f"{tmp_path}/other.csv:noisy")
    with pytest.raises(InputError, match="other labels are of training images"):
        sources.scored_folder(str(folder), CLASSES, labels=f"{table}:noisy_labels_5")


def test_the_public_table_has_the_names_of_the_public_images(real_data):
    """Rows of noisy_imagenette.csv, of which all 13,394 name images of the archive."""
    archive = real_data / "imagenette192.tar"
    if not archive.exists():
        pytest.skip("RESNET_TF_DATA has no imagenette192.tar")
    with tarfile.open(archive) as tar:
        names = {member.name.partition("/")[2] for member in tar if member.isfile()}
    assert {
        "train/n02979186/n02979186_9036.JPEG", "train/n02979186/n02979186_11957.JPEG",
        "train/n02979186/n02979186_9715.JPEG", "train/n02979186/n02979186_21736.JPEG",
    } <= names  # fmt: skip
