"""Orientation tags: eight ways to store one photo, one answer, from training to an exported model."""

import dataclasses
import io
import json

import numpy as np
import pytest
import tensorflow as tf
import yaml
from files import unpack
from PIL import Image, ImageOps

from resnet_tf import config, evaluate, export, predict, prepare, train
from resnet_tf.data import annotated_views, batches, geometry, images, masks, orientation, segmentation, sources, verify
from resnet_tf.data.boxes import Objects
from resnet_tf.data.examples import Examples, Memory
from resnet_tf.errors import InputError
from resnet_tf.runs import record

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

TAG = 0x0112
# What a camera did whose image each tag turns back: the same operations, the quarter turns the other way.
STORED = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}}
DRAWS = np.random.default_rng(1).random((4, geometry.DRAWS)).astype(np.float32)


def photo(seed=0, size=(40, 56)):
    """Pixels that JPEG keeps closely, and of which no turn looks like another."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def tagged(pixels, tag, form="PNG", order="<", **options):
    """Pixels in a file that has a tag, as they are."""
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[TAG], exif[0x0131] = "Maker", tag, "a program"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, exif=exif.tobytes(), **LOSSLESS.get(form, {}), **options)
    return file.getvalue()


def stored(pixels, tag, form="PNG", **options):
    """A file that shows `pixels` upright, stored as a camera does that is held in that way."""
    image = Image.fromarray(pixels)
    return tagged(np.array(image if tag == 1 else image.transpose(STORED[tag])), tag, form, **options)


def jpegs(pixels):
    return [stored(pixels, tag, "JPEG", quality=100, subsampling=0) for tag in STORED]


def examples(data, exif="apply", **more):
    names = [f"{number}.x" for number in range(len(data))]
    count = len(data)
    return Examples(Memory("set", names, data), np.arange(count), np.zeros(count, np.int32), exif=exif, **more)


# --- Reading the tag -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_tag_is_applied_as_pillow_does(form, order):
    for tag in range(10):  # 0 and 9 are none
        data = tagged(photo(), tag, form, order)
        expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        np.testing.assert_array_equal(images.decode(data), expected)
        ignored = orientation.ignored(tf.constant(data)).numpy()
        np.testing.assert_array_equal(images.decode(ignored), np.array(Image.open(io.BytesIO(data)).convert("RGB")))
        assert Image.open(io.BytesIO(ignored)).getexif().get(TAG, 1) in ({1} if 1 <= tag <= 8 else {tag})


def test_exif_is_found_where_it_stands_and_only_there():
    data = tagged(photo(), 6, "JPEG")
    start = data.index(b"\xff\xe1")
    size = 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    segment, rest = data[start : start + size], data[start + size :]
    other = b"\xff\xe2" + (40_002).to_bytes(2, "big") + b"\xff\xe1Exif\0\0" * 5_000  # a colour profile, say
    turned = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    for moved in (other * 30 + segment, b"\xff\xff\xff" + segment, segment + segment.replace(b"\x06", b"\x03")):
        np.testing.assert_array_equal(images.decode(data[:start] + moved + rest), turned)
    long = data.replace(b"\x12\x01\x03\0\x01\0\0\0\x06", b"\x12\x01\x04\0\x01\0\0\0\x06")  # of 32 bits
    assert long != data
    np.testing.assert_array_equal(images.decode(long), turned)
    for untagged in (data[:start] + other + rest, data[:start] + rest):
        np.testing.assert_array_equal(images.decode(untagged), np.array(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_none_and_never_an_error(form):
    data = tagged(photo(), 6, form, quality=60)
    start = data.index(b"II*\0")
    for at in range(start, start + 60):
        for value in (0, 255):
            damaged = data[:at] + bytes([value]) + data[at + 1 :]
            assert 1 <= orientation.of(tf.constant(damaged)) <= 8
    for length in range(0, len(data), max(5, len(data) // 200)):
        cut = tf.constant(data[:length])
        assert orientation.of(cut) in (1, 6)
        orientation.ignored(cut)


def test_images_without_a_tag_are_as_they_were():
    """To the bit, whole and in part."""
    file = io.BytesIO()
    Image.fromarray(photo(3, (90, 140))).save(file, "JPEG", quality=80)
    data = tf.constant(file.getvalue())
    plain = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    np.testing.assert_array_equal(images.decode_tensor(data), plain)
    part = tf.io.decode_and_crop_jpeg(data, [11, 7, 50, 60], channels=3, dct_method="INTEGER_ACCURATE")
    from resnet_tf.data import decoding

    np.testing.assert_array_equal(decoding.Encoded(data, None).window(11, 7, 50, 60), part)


# --- One answer ------------------------------------------------------------------------------------------------------

VIEWS = {
    "random_resized_crop": geometry.View("random_resized_crop", 16),
    "scale_jitter": geometry.View("scale_jitter", 16, scale=(18, 30)),
    "resize_crop": geometry.View("resize_crop", 16, scale=(20,)),
}
WHOLE = {
    "center": lambda data: geometry.center(data, 16, 20),
    "ten_crop": lambda data: geometry.ten_crop(data, 16, 20),
    "scaled_whole": lambda data: geometry.scaled_whole(data, 24),
    "filled_whole": lambda data: annotated_views.filled_whole(data, 32, (1, 2, 3)),
    "boxed_whole": lambda data: annotated_views.boxed_whole(data, 32)[0],
}
BOX = [5, 9, 30, 40]


@pytest.mark.parametrize("form", LOSSLESS)
def test_eight_orientations_are_one_in_every_view(form):
    data = [stored(photo(), tag, form) for tag in STORED]
    seen = [np.concatenate([np.ravel(view(one)) for view in WHOLE.values()]) for one in data]
    for view in VIEWS.values():
        for position, one in enumerate(data):
            parts = [np.ravel(view(one, tf.constant(draws), box)) for draws in DRAWS[:2] for box in (None, BOX)]
            seen[position] = np.concatenate([seen[position], *parts])
    for one in seen[1:]:
        np.testing.assert_array_equal(one, seen[0])


@pytest.mark.parametrize("kind", VIEWS)
def test_eight_orientations_of_a_jpeg_that_is_decoded_in_part(kind):
    """Up to the rounding of eight JPEGs, and half a pixel of the view where boxes snap to the grid of a smaller image.

    A pixel of the view is up to 25 levels from the next; what is turned otherwise is some 60 from what it should be.
    """
    data = jpegs(photo(1, (200, 300)))
    for box in (None, [20, 40, 150, 200]):
        seen = np.array([[VIEWS[kind](one, tf.constant(draws), box) for draws in DRAWS] for one in data], int)
        untagged = [orientation.ignored(tf.constant(one)) for one in data]
        wrong = np.array([VIEWS[kind](one, tf.constant(DRAWS[0])) for one in untagged], int)
        for number in range(1, 8):
            assert np.abs(seen[number] - seen[0]).mean() < (10 if kind == "random_resized_crop" else 1)
            assert np.abs(wrong[number] - wrong[0]).mean() > 20


def test_ignored_tags_leave_training_and_evaluation_as_they_were_before():
    data = [stored(photo(), tag) for tag in STORED]
    without = [io.BytesIO() for _ in data]
    for one, file in zip(data, without, strict=True):
        Image.fromarray(np.array(Image.open(io.BytesIO(one)))).save(file, "PNG")
    plain = examples([file.getvalue() for file in without])
    for other in (examples(data, "ignore"), examples(data)):
        same = []
        for split in (plain, other):
            views = next(iter(batches.training(split, VIEWS["resize_crop"], batch=8, threads=1)))
            tests = batches.testing(split, lambda data, box: geometry.center(data, 16), batch=8, threads=1)
            same.append([views["pixels"].numpy(), next(iter(tests))["pixels"].numpy()])
        equal = [np.array_equal(*pair) for pair in zip(*same, strict=True)]
        assert equal == [other.exif == "ignore"] * 2
    assert plain.digest() != other.digest()  # but exif itself is no matter of what the images are
    assert other.digest() == dataclasses.replace(other, exif="ignore").digest()


# --- Sets, and what is made of them ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same set twice: upright, and with tags."""
    place = tmp_path_factory.mktemp("sets")
    upright, turned = {}, {}
    for split in ("train", "test"):
        for label in "ab":
            for number in range(8):
                pixels = photo(100 * (split == "test") + 10 * number + (label == "a"), (24, 32))
                name = f"{split}/{label}/{number}.png"
                upright[name], turned[name] = stored(pixels, 1), stored(pixels, number % 8 + 1)
    return unpack(place / "upright", upright), unpack(place / "turned", turned)


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_sets_that_are_held_decoded(folders, exif):
    upright, turned = (sources.load("folder", str(folder), image_size=16, exif=exif) for folder in folders)
    same = np.array_equal(upright.splits["train"].images, turned.splits["train"].images)
    assert same == (exif == "apply")
    held = [sources.index("folder", str(folder), exif=exif).splits["train"] for folder in folders]
    np.testing.assert_array_equal(sources.decoded(held[0]).shape, (16, 24, 32, 3))
    if exif == "ignore":
        with pytest.raises(InputError, match="32 x 24 pixels, but"):
            sources.decoded(held[1])
    else:
        np.testing.assert_array_equal(*map(sources.decoded, held))


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_sides_that_are_checked_are_those_of_the_upright_image(form):
    data = [stored(photo(), tag, form) for tag in STORED]
    box = np.array([[0, 0, 40, 56]] * len(data), np.int32)
    assert verify.verify(examples(data, boxes=box), 0)[1] == []
    _, bad = verify.verify(examples(data, "ignore", boxes=box), 4)
    assert [name for name, _ in bad] == [f"set: {number}.x" for number in range(4, 8)]


@pytest.mark.parametrize("exif", ["apply", "ignore"])
@pytest.mark.parametrize("side", [0, 16, 288])
def test_prepared_sets_are_upright_however_they_are_read(folders, exif, side, tmp_path, capsys):
    """And with `ignore` as they are stored, whatever is done with tags afterwards."""
    flags = [f"--data_dir={folders[1]}", f"--out={tmp_path}/out", f"--shorter_side={side}", f"--exif={exif}"]
    assert prepare.main([*flags, "--quality=100"]) == 0
    split = sources.index("records", str(tmp_path / "out")).splits["test"]
    original = sources.index("folder", str(folders[0 if exif == "apply" else 1]), exif=exif).splits["test"]
    for number in range(len(split)):
        data = original.read(number)
        expected = geometry.scaled_whole(data, 16).numpy() if side == 16 else images.decode(data)
        found = images.decode(split.read(number)).astype(int)
        # Small pictures, of which JPEG keeps a quarter of the colours.
        assert found.shape == expected.shape and np.abs(found - expected).mean() < 10
        tag = Image.open(io.BytesIO(split.read(number))).getexif().get(TAG, 1)
        assert tag == (number % 8 + 1 if side == 0 and exif == "apply" else 1)
    other = "ignore" if exif == "apply" else "apply"
    assert prepare.main([*flags[:-1], f"--exif={other}"]) == 1
    assert f"--exif={exif} there, {other} here" in capsys.readouterr().err


def test_small_jpegs_with_a_tag_are_not_kept_as_they_are(tmp_path):
    """Where sizes are limited, all that is stored is upright: one set must not have both."""
    pixels = photo()
    files = {f"{split}/a/{tag}.jpg": one for split in ("train", "test") for tag, one in enumerate(jpegs(pixels), 1)}
    root = unpack(tmp_path / "set", files)
    assert prepare.main([f"--data_dir={root}", f"--out={tmp_path}/out", "--quality=100"]) == 0
    split = sources.index("records", str(tmp_path / "out"), exif="ignore").splits["test"]
    assert split.read(0) == files["test/a/1.jpg"]
    for number in range(8):
        found = images.decode(split.read(number))
        assert found.shape == pixels.shape and np.abs(found.astype(int) - pixels).mean() < 4


# --- Masks and boxes -------------------------------------------------------------------------------------------------


def test_masks_are_of_the_upright_image():
    pixels = photo()
    labels = (pixels[..., 0] > 128).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "PNG")
    view = annotated_views.MaskedView(32, (0.8, 1.2))
    data = [stored(pixels, tag) for tag in STORED]
    seen = [[np.ravel(part) for part in view(one, tf.constant(labels), tf.constant(DRAWS[0]))] for one in data]
    for one in seen[1:]:
        np.testing.assert_array_equal(np.concatenate(one), np.concatenate(seen[0]))
    mask = masks.Masks(Memory("masks", ["0.png"], [file.getvalue()]), masks.table(2))
    masks.verify(examples(data[5:6], masks=mask))
    with pytest.raises(InputError, match=r"40 x 56 pixels, but 56 x 40 in set: 0\.x"):
        masks.verify(examples(data[5:6], "ignore", masks=mask))
    sideways = [tagged(pixels, 6)]  # with a mask of the pixels as they are stored
    with pytest.raises(InputError, match="its orientation tag turns it, --exif=ignore ignores the tag"):
        masks.verify(examples(sideways, masks=mask))
    masks.verify(examples(sideways, "ignore", masks=mask))


def test_segmentation_takes_the_flag(tmp_path):
    pixels = photo()
    file = io.BytesIO()
    Image.fromarray(np.zeros(pixels.shape[:2], np.uint8)).save(file, "PNG")
    files = {}
    for split in ("train", "val"):
        files |= {f"{split}/0.png": stored(pixels, 6), f"{split}annot/0.png": file.getvalue()}
    root = str(unpack(tmp_path, files))
    for exif in ("apply", "ignore"):
        split = segmentation.index("camvid", root, ("a", "b"), exif=exif).splits["train"]
        assert images.decode(split.read(0)).shape == ((40, 56, 3) if exif == "apply" else (56, 40, 3))
    settings = config.SegmentConfig(
        data=config.SegmentationDataConfig(data_dir=root, classes=("a", "b"), exif="ignore"),
        optimizer=config.OptimizerConfig(train_steps=1),
    )
    from resnet_tf.tasks.segmentation import Segmentation

    assert Segmentation(settings).load()[0].splits["test"].exif == "ignore"


def test_boxes_are_of_the_upright_image():
    pixels, view = photo(), annotated_views.BoxedView(48, (0.7, 1.4), most=1)
    rows = np.array([[4, 7, 36, 50, 0, 1]], np.float32)
    data = [stored(pixels, tag) for tag in STORED]
    seen = [[np.ravel(part) for part in view(one, tf.constant(rows), tf.constant(DRAWS[1]))] for one in data]
    for one in seen[1:]:
        np.testing.assert_array_equal(np.concatenate(one), np.concatenate(seen[0]))
    objects = Objects(np.array([0, 1]), rows[:, :4], np.zeros(1, np.int32), np.zeros(1, bool))
    from resnet_tf.data import boxes

    boxes.verify(examples(data[5:6], objects=objects))
    with pytest.raises(InputError, match=r"56 x 40 pixels, but a box .*; its orientation tag turns it"):
        boxes.verify(examples([tagged(pixels, 6)], objects=objects))


# --- Runs, exports, prediction ---------------------------------------------------------------------------------------

SMALL = ["--dataset=folder", "--model=cifar_resnet8_v1", "--view=random_resized_crop", "--image_size=16", "--resize=20"]
SMALL += ["--batch_size=4", "--train_steps=2", "--lr=0.01"]


@pytest.fixture(scope="module")
def runs(folders, tmp_path_factory):
    """A run of the upright set, its export, and one that ignores tags."""
    place = tmp_path_factory.mktemp("runs")
    for exif in ("apply", "ignore"):
        flags = [*SMALL, f"--data_dir={folders[0]}", f"--exif={exif}"]
        assert train.main([*flags, f"--out={place}/{exif}"]) == 0
        flags = [f"--run={place}/{exif}", f"--out={place}/{exif}_model", "--ten_crop", "--format=savedmodel,keras"]
        assert export.main(flags) == 0
    return place


def test_evaluation_of_tagged_images(runs, folders, last_json):
    def loss(exif, folder, views):
        flags = [f"--run={runs}/{exif}", f"--data_dir={folder}", f"--views={views}"]
        assert evaluate.main(flags) == 0
        return last_json()["loss"]

    for views in ("center", "ten_crop"):
        upright, turned = (loss("apply", folder, views) for folder in folders)
        assert turned == upright
        assert loss("ignore", folders[1], views) != loss("ignore", folders[0], views)


def test_signatures_of_exports(runs):
    pixels = photo(7)
    data = tf.constant([stored(pixels, tag) for tag in STORED] + [stored(pixels, tag, "WEBP") for tag in STORED])
    for exif in ("apply", "ignore"):
        model = tf.saved_model.load(f"{runs}/{exif}_model/1")
        for name in ("serving_default", "ten_crop"):
            answers = model.signatures[name](image_bytes=data)["probabilities"].numpy()
            same = np.abs(answers - answers[:1]).max(axis=1) < 1e-6  # a batch may round otherwise than one
            assert same.all() if exif == "apply" else (~same).sum() >= 12
        card = json.loads((runs / f"{exif}_model/1/model.json").read_text())
        assert card["exif"] == exif and "WebP" in card["limits"]["image_formats"]


def test_predict_by_every_format(runs, tmp_path, capsys):
    def answers(*flags):
        capsys.readouterr()
        assert predict.main([*flags, "--format=jsonl", str(folder)]) == 0
        found = [json.loads(line)["predictions"][0] for line in capsys.readouterr().out.splitlines()[:-1]]
        return {(best["class"], round(best["probability"], 5)) for best in found}

    files = {f"{tag}.png": stored(photo(7), tag) for tag in STORED}
    folder = unpack(tmp_path / "photos", files)
    card = runs / "apply_model/1/model.json"
    for model, one in (("apply_model", True), ("ignore_model", False)):
        for path in (f"{runs}/{model}", f"{runs}/{model}/1/model.keras"):
            assert (len(answers(f"--model={path}", "--top_k=2")) == 1) == one
    text = card.read_text()
    try:  # as an earlier release wrote it
        card.write_text(json.dumps({name: value for name, value in json.loads(text).items() if name != "exif"}))
        assert len(answers(f"--model={runs}/apply_model/1/model.keras")) > 1
    finally:
        card.write_text(text)


def test_runs_from_before_the_flag_ignore_tags(runs, folders, last_json, tmp_path):
    manifest = yaml.safe_load((runs / "ignore/manifest.yaml").read_text())
    assert manifest["flags"].pop("exif") == "ignore"
    old = tmp_path / "old"
    old.mkdir()
    for path in (runs / "ignore").iterdir():
        (old / path.name).symlink_to(path)
    (old / "manifest.yaml").unlink()
    (old / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    assert record.open_run(old).config.data.exif == "ignore"
    flags = [*SMALL, f"--data_dir={folders[0]}"]
    with pytest.raises(InputError, match="--exif='ignore' there, 'apply' here"):
        record.check_folder(old, record.open_run(runs / "apply").config)
    assert export.main([f"--run={old}", f"--out={tmp_path}/model"]) == 0
    assert json.loads((tmp_path / "model/1/model.json").read_text())["exif"] == "ignore"
    # Where there are no tags, such a run goes on under the flag's default.
    manifest["flags"] |= {"dataset": "digits", "data_dir": "", "view": "pad_crop", "resize": 0}
    (old / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    now = dataclasses.replace(record.open_run(old).config.data, exif="apply")
    assert record.check_folder(old, dataclasses.replace(record.open_run(old).config, data=now))
    assert flags
