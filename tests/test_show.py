"""The gallery: the boxes drawn are those that the views are cut from, and the files are what they say."""

import json
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image

from resnet_tf import config, show
from resnet_tf.evaluation import gallery

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

VIEWS = {
    "random_resized_crop": ["--image_size=48"],
    "scale_jitter": ["--image_size=48", "--scale=60,110"],
    "resize_crop": ["--image_size=48", "--scale=70"],
    "pad_crop": ["--image_size=64", "--pad=6"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images whose red tells the column and whose green tells the row, a few of each shape."""
    root = tmp_path_factory.mktemp("gradients")
    for index, (height, width) in enumerate([(120, 160), (150, 100), (90, 200)] * 3):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
        pixels[..., 2] = 100 * (index % 2)
        path = root / ("train" if index < 6 else "test") / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return root


def flags(folder, *more):
    return ["--dataset=folder", f"--data_dir={folder}", "--normalization=imagenet", *more]


def settings(folder, *more):
    values = config.fields.flags.FlagValues()
    config.define_flags(config.ShowConfig, values)
    values(["test", *flags(folder, *more)])
    return config.read_flags(config.ShowConfig, values)


def check(row, look):
    """Red and green at each pixel of a view are the column and the row that its box says."""
    size = len(look.pixels)
    top, left, height, width = look.box
    steps = (np.arange(size) + 0.5) / size
    columns, rows = left + steps * width - 0.5, top + steps * height - 0.5
    columns = columns[::-1] if look.mirrored else columns
    # Where the kernel of a shrinking view, as wide as one of its pixels, lies within the image.
    sides = row.original.shape
    margin = max(1, height / size, width / size)
    good = (rows > margin) & (rows < sides[0] - 1 - margin)
    good = good[:, None] & ((columns > margin) & (columns < sides[1] - 1 - margin))
    assert good.mean() > 0.5
    # Rounded in the view and once more by the normalisation.
    assert np.abs(look.pixels[..., 0] - np.broadcast_to(columns, [size, size]))[good].max() <= 1.1
    assert np.abs(look.pixels[..., 1] - np.broadcast_to(rows[:, None], [size, size]))[good].max() <= 1.1


@pytest.mark.parametrize("mirroring", ["random", "alternate"])
@pytest.mark.parametrize("view", VIEWS)
def test_boxes_are_what_the_views_show(view, mirroring, folder):
    more = [f"--view={view}", *VIEWS[view], "--examples=6", "--epochs=3", f"--mirroring={mirroring}"]
    if view == "pad_crop":  # the set is held at one size: one of squares
        folder = folder.parent / "squares"
        for index in range(9):
            path = folder / ("train" if index < 6 else "test") / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.stack([*np.meshgrid(np.arange(64), np.arange(64)), np.full((64, 64), index)], axis=-1)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    rows = gallery.training_rows(settings(folder, *more))
    looks = [(row, look) for row in rows for look in row.looks]
    for row, look in looks:
        check(row, look)
        assert look.classes == [(row.label, 1.0)]
    assert len(looks) == 18 and 0 < sum(look.mirrored for _, look in looks) < 18
    assert len({tuple(look.box) for _, look in looks}) > 12
    drawn = gallery.draw(rows).axes[0].patches[1::2]
    found = [[patch.get_y() + 0.5, patch.get_x() + 0.5, patch.get_height(), patch.get_width()] for patch in drawn]
    np.testing.assert_allclose(found, [look.box for look in rows[0].looks], atol=1e-9)


def test_ten_crop_shows_its_boxes(folder):
    more = ["--view=random_resized_crop", "--image_size=64", "--eval_size=48", "--resize=60", "--shown=ten_crop"]
    for row in gallery.ten_crop_rows(settings(folder, *more)):
        assert [look.mirrored for look in row.looks] == [False] * 5 + [True] * 5
        for look in row.looks:
            check(row, look)
        width, boxes = row.original.shape[1], [look.box for look in row.looks]
        mirrored = [[top, width - left - wide, tall, wide] for top, left, tall, wide in boxes[5:]]
        np.testing.assert_allclose(mirrored, boxes[:5], atol=1e-9)
        # Images of 90 x 200 have an odd margin, so that the centre of the mirrored one is another box.
        different = 6 if width == 200 else 5
        assert len(gallery.draw([row], "ten_crop").axes[0].patches) == 2 * different


def test_mixed_views_have_both_names_and_weights(folder):
    more = ["--view=resize_crop", *VIEWS["resize_crop"], "--mixup=1", "--examples=6", "--mirror=false"]
    for first, second in zip(*[iter(gallery.training_rows(settings(folder, *more)))] * 2, strict=True):
        for look, other in zip(first.looks, second.looks, strict=True):
            assert sum(weight for _, weight in look.classes) == pytest.approx(1, abs=1e-6)
            if first.label == second.label:
                continue
            own = dict(look.classes).get(first.label, 0)
            blue = 100 * (own if first.label == "b" else 1 - own)  # class b has blue
            assert np.abs(look.pixels[..., 2] - blue).max() <= 1
            assert other.pixels.shape == look.pixels.shape


@pytest.mark.parametrize("shown", ["training", "ten_crop"])
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_writes_a_picture(shown, ending, folder, tmp_path, capsys):
    out = tmp_path / f"gallery.{ending}"
    more = ["--view=random_resized_crop", "--image_size=32", "--resize=40", "--color_jitter=0.4,0.4,0.4,0.4"]
    more += ["--lighting=0.1", "--erasing=0.5", "--mixup=0.2", "--cutmix=1", "--randaugment=2,6", "--examples=2"]
    assert show.main(flags(folder, *more, f"--shown={shown}", f"--out={out}")) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result == {"out": str(out), "shown": shown, "examples": 2, "views": 4 if shown == "training" else 10}
    if ending == "png":
        assert np.asarray(Image.open(out).convert("RGB")).std() > 10
    else:
        assert xml.etree.ElementTree.parse(out).getroot().tag.endswith("svg")
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    "more, named",
    [
        (["--out=gallery.jpg"], "--out=gallery.jpg"),
        (["--out="], "--out="),
        (["--out=no/such/folder/g.png"], "--out=no/such/folder/g.png"),
        (["--examples=7"], "--examples=7"),
        (["--examples=3", "--mixup=0.2"], "--examples=3"),
        (["--shown=ten_crop"], "--resize"),
        (["--view=pad_crop", "--shown=ten_crop"], "--shown=ten_crop"),
        (["--resize=8"], "--resize=8"),
        (["--data_dir=/no/such"], "/no/such"),
    ],
)
def test_bad_input_is_one_line(more, named, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = flags(folder, "--view=random_resized_crop", "--image_size=32", "--out=g.png")
    assert show.main([*base, *more]) == 1
    captured = capsys.readouterr()
    assert captured.err.strip().splitlines()[-1].startswith("error: ") and named in captured.err
    assert captured.out == "" and not list(tmp_path.iterdir())


def test_bad_image_is_named(tmp_path, capsys):
    for split in ("train", "test"):
        path = tmp_path / "data" / split / "a" / "bad.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\xff\xd8\xff text")
    base = flags(tmp_path / "data", "--view=resize_crop", "--scale=40", "--examples=1", f"--out={tmp_path}/g.png")
    assert show.main(base) == 1
    assert "train/a/bad.jpg" in capsys.readouterr().err and not (tmp_path / "g.png").exists()
