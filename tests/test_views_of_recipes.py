"""Progressive resizing and alternating mirroring: the sizes and the sides that a training sees, broken off or not."""

import numpy as np
import pytest
import tensorflow as tf
import yaml

from resnet_tf import evaluate, train
from resnet_tf.data import batches, draws, geometry
from resnet_tf.data.examples import Examples, Memory
from resnet_tf.runs import checkpoint
from resnet_tf.training import engine, supply

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

# 512 training images: two steps an epoch.
STREAMED = (
    "--dataset=synthetic", "--view=random_resized_crop", "--image_size=24", "--model=cifar_resnet8_v1",
    "--batch_size=256", "--lr=0.05", "--log_every=2", "--train_epochs=2", "--checkpoint_every=3",
    "--normalization=imagenet",
)  # fmt: skip


def values_of(run, step):
    return checkpoint.load(run / "checkpoints" / f"step-{step:08}.npz")


def equal(one, two):
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.fixture
def sizes(monkeypatch):
    """The sides of the views of each step, by number of the step, as the step is given them."""
    seen = {}
    plain = engine.Engine.run

    def run(self, batches, start, stop):
        take = batches.take

        def recorded(step, count):
            part = take(step, count)
            data = part.data[0] if not isinstance(batches, supply.Held) else part.data[0][0]
            side = data[part.first].get("rows", data[part.first].get("pixels")).shape[1]
            seen.update({step + index: side for index in range(part.count)})
            return part

        batches.take = recorded
        try:
            return plain(self, batches, start, stop)
        finally:
            batches.take = take

    monkeypatch.setattr(engine.Engine, "run", run)
    return seen


def test_parts_are_equal_and_end_where_they_say():
    for sizes, total in (((96, 112, 128), 9), ((8, 16), 7), ((8, 12, 16, 20), 6), ((8, 16, 24), 2)):
        steps = supply.Progression(sizes, total)
        expected = [sizes[int(np.floor(step / total * len(sizes) + 1e-9))] for step in range(total)]
        assert [steps.size(step) for step in range(total)] == expected
        for step in range(total):
            ahead = steps.ahead(step)
            assert ahead > 0 and all(steps.size(one) == expected[step] for one in range(step, min(step + ahead, total)))
            assert step + ahead >= total or steps.size(step + ahead) != expected[step]
        assert steps.size(total) == steps.size(total + 100) == sizes[-1]


def test_each_part_of_a_training_has_its_size_also_where_it_goes_on(tmp_path, sizes, last_json):
    flags = [*STREAMED, "--progressive=12"]
    assert train.main([*flags, f"--out={tmp_path}/whole"]) == 0
    assert sizes == {0: 12, 1: 12, 2: 24, 3: 24}
    assert yaml.safe_load((tmp_path / "whole" / "manifest.yaml").read_text())["flags"]["progressive"] == [12]
    cut = tmp_path / "cut"
    (cut / "checkpoints").mkdir(parents=True)
    (cut / "manifest.yaml").write_text((tmp_path / "whole" / "manifest.yaml").read_text())
    name = "step-00000003.npz"
    (cut / "checkpoints" / name).write_bytes((tmp_path / "whole" / "checkpoints" / name).read_bytes())
    sizes.clear()
    assert train.main([*flags, f"--out={cut}"]) == 0
    assert sizes == {3: 24}
    equal(values_of(tmp_path / "whole", 4), values_of(cut, 4))
    assert evaluate.main([f"--run={cut}"]) == 0 and last_json()["examples"] == 256


def test_sizes_on_two_replicas_and_of_held_images(tmp_path, sizes):
    flags = [*STREAMED, "--progressive=66", "--image_size=70", "--batch_size=16", "--train_epochs=0"]
    flags += ["--train_steps=3", "--hold_images", "--replicas=2"]  # less than 65 would average 96 x 128 pixels
    assert train.main([*flags, f"--out={tmp_path}/held"]) == 0
    assert sizes == {0: 66, 1: 66, 2: 70}


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--progressive=12,32"], "--progressive=12,32: not from 8 to --image_size=24"),
        (["--progressive=4"], "--progressive=4: not from 8"),
        (["--view=pad_crop", "--progressive=12"], "--progressive is not used by --view=pad_crop"),
        (["--hold_images", "--image_size=80", "--progressive=40"], "--hold_images: views of --progressive=40 shrink"),
        (["--nomirror", "--mirroring=alternate"], "--mirroring is not used by --mirror"),
        (["--view=pad_crop", "--normalization=pixel", "--mirroring=alternate"], "--mirroring=alternate is not used"),
        (["--trivialaugment", "--randaugment=2,6"], "--trivialaugment is not used by --randaugment"),
    ],
)
def test_what_cannot_work_is_named(flags, named, tmp_path, capsys):
    assert train.main([*STREAMED, *flags, f"--out={tmp_path}/run"]) == 1
    assert named in capsys.readouterr().err.strip().splitlines()[-1] and not (tmp_path / "run").exists()


# --- Alternating mirroring -------------------------------------------------------------------------------------------


def test_sides_alternate_by_a_hash_of_the_index():
    count, epochs = 4000, np.arange(5)
    grid = np.stack([draws.alternating(3, tf.fill([count], tf.constant(e, tf.int64)), tf.range(count, dtype=tf.int64))
                     for e in epochs]) < 0.5  # fmt: skip
    # Jordan 2024, listing 2: flip = (hash(index) + epoch) % 2 == 0, or the other side where the hash says so.
    np.testing.assert_array_equal(grid, grid[0] ^ (epochs[:, None] % 2 == 1))
    assert abs(grid[0].mean() - 0.5) < 5 * 0.5 / np.sqrt(count)  # five deviations of a binomial's share
    other = draws.alternating(4, tf.zeros([count], tf.int64), tf.range(count, dtype=tf.int64)).numpy() < 0.5
    assert abs((grid[0] == other).mean() - 0.5) < 5 * 0.5 / np.sqrt(count)


def left_is_dark(pixels):
    return pixels[:, :, : pixels.shape[2] // 2].astype(float).mean((1, 2, 3)) < 127


def test_streamed_and_resident_views_alternate_and_go_on():
    half = np.concatenate([np.zeros((12, 8, 3), np.uint8), np.full((12, 8, 3), 255, np.uint8)], axis=1)
    data = [tf.io.encode_png(half).numpy() for _ in range(20)]
    examples = Examples(
        Memory("drawn", [f"{i}.png" for i in range(20)], data), np.arange(20), np.arange(20, dtype=np.int32)
    )
    view = geometry.View("random_resized_crop", 8, area=(0.9, 1.0), aspect=(1.2, 1.3))
    stream = batches.training(examples, view, batch=10, seed=1, alternate=True)
    taken = list(stream.take(8).as_numpy_iterator())
    sides = np.zeros((4, 20), bool)
    for step, batch in enumerate(taken):
        sides[step // 2, batch["labels"]] = left_is_dark(batch["pixels"])
    np.testing.assert_array_equal(sides, sides[0] ^ (np.arange(4)[:, None] % 2 == 1))
    assert 2 < sides[0].sum() < 18
    later = next(iter(batches.training(examples, view, batch=10, seed=1, first_step=5, alternate=True)))
    np.testing.assert_array_equal(later["pixels"], taken[5]["pixels"])

    class OneDevice:
        replicas, first_replica = 1, 0

        def place(self, *arrays):
            return [tuple(tf.constant(array) for array in arrays)]

    images, labels = np.stack([half] * 20), np.arange(20, dtype=np.int32)
    held = supply.Resident(OneDevice(), images, labels, 10, seed=1, capacity=1, alternate=True)
    seen = np.zeros((4, 20), bool)
    for step in range(8):
        (batch,) = next(held.peek(step, 1))
        seen[step // 2, batch.labels.numpy()] = left_is_dark(batch.pixels.numpy())
    np.testing.assert_array_equal(seen, sides)  # the same rule, by the same hash


def test_alternating_run_goes_on_bit_for_bit(tmp_path):
    flags = ["--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=64", "--pad=2"]
    flags += ["--mirroring=alternate", "--train_steps=6", "--checkpoint_every=3", "--log_every=2"]
    assert train.main([*flags, f"--out={tmp_path}/whole"]) == 0
    cut = tmp_path / "cut"
    (cut / "checkpoints").mkdir(parents=True)
    for name in ("manifest.yaml", "checkpoints/step-00000003.npz"):
        (cut / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    assert train.main([*flags, f"--out={cut}"]) == 0
    equal(values_of(tmp_path / "whole", 6), values_of(cut, 6))
