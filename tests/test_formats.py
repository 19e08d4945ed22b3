"""Formats beyond JPEG, PNG, BMP and GIF: WebP in the graph, TIFF and others by Pillow, and what none can read."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from files import pack, picture, pixels_of, refused, unpack
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnet_tf import export, predict, prepare, train
from resnet_tf.data import batches, formats, geometry, images, index, load, verify
from resnet_tf.errors import InputError
from resnet_tf.runs import run_data

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 53, 4), np.uint8)


def encode(pixels, form, **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, form, **options)
    return file.getvalue()


# --- WebP ------------------------------------------------------------------------------------------------------------

WEBP = {
    "lossy": encode(PIXELS[..., :3], "WEBP", quality=80),
    "lossless": encode(PIXELS[..., :3], "WEBP", lossless=True),
    "alpha": encode(PIXELS, "WEBP", lossless=True, exact=True),
    "lossy alpha": encode(PIXELS, "WEBP"),
    "animated": encode(
        PIXELS[..., :3], "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(PIXELS[::-1, :, :3])]
    ),
}


@pytest.mark.parametrize("kind", WEBP)
def test_webp_has_the_pixels_that_pillow_finds(kind):
    expected = np.array(Image.open(io.BytesIO(WEBP[kind])).convert("RGBA"))[..., :3]
    np.testing.assert_array_equal(images.decode(WEBP[kind]), expected)
    graph = tf.function(images.decode_tensor, input_signature=[tf.TensorSpec([], tf.string)])
    np.testing.assert_array_equal(graph(WEBP[kind]), expected)


@pytest.mark.parametrize("kind", WEBP)
def test_damaged_webp_is_refused_or_decoded(kind):
    data = WEBP[kind]
    for length in range(1, len(data), max(len(data) // 40, 1)):
        with pytest.raises(InputError, match=r"cat\.webp: "):
            images.decode(data[:length], "cat.webp")
        with pytest.raises(tf.errors.InvalidArgumentError):
            images.decode_tensor(tf.constant(data[:length]))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WEBP)), st.integers(12, 60), st.integers(0, 255))
def test_webp_with_a_wrong_byte_in_its_head_is_no_crash(kind, place, value):
    data = bytearray(WEBP[kind])
    data[place] = value
    try:
        assert images.decode(bytes(data)).ndim == 3
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", WEBP)
def test_webp_above_the_limit_is_refused_before_it_is_decoded(kind, monkeypatch):
    frames = 2 if kind == "animated" else 1
    monkeypatch.setattr(images, "MAX_PIXELS", 37 * 53 * frames)
    assert images.decode(WEBP[kind]).shape == (37, 53, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 37 * 53 * frames - 1)
    with pytest.raises(InputError, match=f"53 x {37 * frames} pixels; the limit"):
        images.decode(WEBP[kind], "cat")
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        images.check_pixels(*images.declared_size(tf.constant(WEBP[kind])))


# --- By Pillow -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form, options", [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}), ("JPEG2000", {})]
)
def test_what_pillow_reads_keeps_its_pixels(form, options):
    np.testing.assert_array_equal(images.decode(encode(PIXELS[..., :3], form, **options)), PIXELS[..., :3])


def test_modes_of_tiff():
    """As those of PNG: grey becomes RGB, alpha is dropped, of 16-bit samples the high byte stays."""
    rgb = Image.fromarray(PIXELS[..., :3])
    grey = np.array(rgb.convert("L"))
    np.testing.assert_array_equal(images.decode(encode(PIXELS, "TIFF")), PIXELS[..., :3])
    for mode in ("L", "1", "P", "CMYK"):
        converted = rgb.convert(mode)
        np.testing.assert_array_equal(images.decode(encode(converted, "TIFF")), np.array(converted.convert("RGB")))
    deep = grey.astype(np.uint16) * 256 + 77
    np.testing.assert_array_equal(images.decode(encode(deep, "TIFF"))[..., 1], grey)
    with pytest.raises(InputError, match="scan: samples of 32 bits"):
        images.decode(encode(grey.astype(np.float32), "TIFF"), "scan")


def test_tiff_is_upright_whatever_its_tag():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(PIXELS[..., :3], "TIFF", exif=exif)
    np.testing.assert_array_equal(images.decode(data), np.rot90(PIXELS[..., :3], -1))


def test_bad_images_for_pillow(monkeypatch):
    data = encode(PIXELS[..., :3], "TIFF", compression="tiff_lzw")
    for length in range(1, len(data), len(data) // 20):
        with pytest.raises(InputError, match=r"^scan: [^\n]*$"):
            images.decode(data[:length], "scan")
    with pytest.raises(InputError, match="scan: not a JPEG, PNG, BMP, GIF or WebP image, nor one that Pillow reads"):
        images.decode(b"no image at all", "scan")
    monkeypatch.setattr(images, "MAX_PIXELS", 37 * 53 - 1)
    with pytest.raises(InputError, match="scan: 53 x 37 pixels; the limit"):
        images.decode(data, "scan")


HEIC = b"\0\0\0\x18ftypheic" + bytes(100)


def test_heic_names_what_reads_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)  # as where it is not installed
    with pytest.raises(InputError, match=r"x.heic: .*pip install 'resnet_tf\[heic\]'"):
        images.decode(HEIC, "x.heic")
    files = {f"{split}/a/{number}.png": picture(number) for split in ("train", "test") for number in range(2)}
    files |= {"train/a/x.heic": HEIC, "train/a/y.HEIF": HEIC}
    for place in (unpack(tmp_path / "set", files), pack(tmp_path / "set.tar", files, "w")):
        message = refused(place, using=index)
        assert message.startswith(f"--data_dir: {place}: 2 HEIC images, such as train/a/x.heic: to read HEIC, pip")


# --- In sets, runs and exports ---------------------------------------------------------------------------------------

FORMS = {
    "1.png": ("PNG", {}), "2.webp": ("WEBP", {"lossless": True}), "3.tif": ("TIFF", {}), "4.TIFF": ("TIFF", {}),
    "5.jp2": ("JPEG2000", {}), "6.ppm": ("PPM", {}), "7.bmp": ("BMP", {}),
}  # fmt: skip
LOSSY = {"8.jfif": "JPEG", "9.jpe": "JPEG", "9.jpg": "JPEG"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A set of every format, of the same pixels in each class where the format is lossless."""
    files = {}
    for split in ("train", "test"):
        for seed, label in enumerate("ab"):
            pixels = pixels_of(picture(seed, size=(20, 24)))
            files |= {f"{split}/{label}/{name}": encode(pixels, form, **more) for name, (form, more) in FORMS.items()}
            files |= {f"{split}/{label}/{name}": encode(pixels, form) for name, form in LOSSY.items()}
    place = tmp_path_factory.mktemp("formats")
    return unpack(place / "set", files), pack(place / "set.tar", files, "w")


def test_sets_of_every_format(everything):
    for place in everything:
        source = index("folder", str(place))
        train_split = source.splits["train"]
        assert len(train_split) == 2 * (len(FORMS) + len(LOSSY)) and not source.ignored
        tests = batches.testing(train_split, lambda data, box: geometry.center(data, 20), batch=4, threads=2)
        views = np.concatenate([batch["pixels"].numpy() for batch in tests])
        held = load("folder", str(place), image_size=20).splits["train"].images
        np.testing.assert_array_equal(views, held)
        for first in (0, len(FORMS) + len(LOSSY)):
            for view in views[first : first + len(FORMS)]:
                np.testing.assert_array_equal(view, views[first])
        view = geometry.View("resize_crop", 16, scale=(20,))
        next(iter(batches.training(train_split, view, batch=20, threads=2)))


def test_data_servers_do_not_get_what_only_pillow_reads(everything):
    view = geometry.View("resize_crop", 16, scale=(20,))
    with pytest.raises(InputError, match="--data_service: some images need Pillow"):
        batches.training(index("folder", str(everything[0])).splits["train"], view, batch=4, servers=("localhost:1",))


@pytest.mark.parametrize("side", [0, 288])
def test_prepared_sets_of_every_format(everything, side, tmp_path, last_json):
    flags = [f"--data_dir={everything[0]}", f"--out={tmp_path}/out", f"--shorter_side={side}", "--quality=100"]
    assert prepare.main(flags) == 0
    assert last_json()["skipped"] == 0
    original, split = index("folder", str(everything[0])).splits["test"], index("records", str(tmp_path / "out"))
    split = split.splits["test"]
    for number in range(len(split)):
        data, expected = split.read(number), images.decode(original.read(number)).astype(int)
        assert formats.is_known(data) and (side == 0 or data.startswith(b"\xff\xd8"))
        difference = np.abs(images.decode(data) - expected).mean()
        assert difference == 0 if side == 0 else difference < 60  # noise, of which JPEG loses colours


def test_a_bad_tiff_of_a_run_is_named(everything, tmp_path):
    """By what names it for `train`, with which tests/test_batches.py meets a bad PNG."""
    files = {path.relative_to(everything[0]).as_posix(): path.read_bytes() for path in everything[0].rglob("*.*")}
    root = unpack(tmp_path, files | {"train/b/3.tif": files["train/b/3.tif"][:200]})
    split = index("folder", str(root)).splits["train"]
    name = f"{root}: train/b/3.tif"
    with pytest.raises(InputError, match=f"^{name}: damaged or truncated image"), run_data.named_errors(split):
        list(batches.training(split, geometry.View("resize_crop", 16, scale=(20,)), batch=10, threads=2).take(2))
    left, bad = verify.verify(split, 1)
    assert [bad_name for bad_name, _ in bad] == [name] and len(left) == len(split) - 1


def test_exports_take_webp_and_predict_takes_all(everything, tmp_path, capsys, caplog):
    caplog.set_level("INFO")
    flags = ["--dataset=folder", f"--data_dir={everything[0]}", "--view=resize_crop", "--scale=20", "--image_size=16"]
    flags += ["--model=cifar_resnet8_v1", "--batch_size=4", "--train_steps=1", "--normalization=imagenet"]
    assert train.main([*flags, f"--out={tmp_path}/run"]) == 0
    assert "data     train 20 images, test 20, 2 classes\n" in capsys.readouterr().err
    assert export.main([f"--run={tmp_path}/run", f"--out={tmp_path}/model"]) == 0
    photos = everything[0] / "test/a"
    signature = tf.saved_model.load(str(tmp_path / "model/1")).signatures["serving_default"]
    same = [photos.joinpath(name).read_bytes() for name in ("1.png", "2.webp", "7.bmp")]
    answers = signature(image_bytes=tf.constant([*same, WEBP["animated"]]))["probabilities"].numpy()
    np.testing.assert_allclose(answers[1:3], answers[[0, 0]], atol=1e-6)  # a batch may round otherwise than one
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image_bytes\[1\]: not a JPEG, PNG, BMP, GIF or WebP"):
        signature(image_bytes=tf.constant([same[0], photos.joinpath("3.tif").read_bytes()]))
    card = json.loads((tmp_path / "model/1/model.json").read_text())
    assert card["limits"]["image_formats"] == ["JPEG", "PNG", "BMP", "GIF", "WebP"]
    mixed = unpack(tmp_path / "mixed", {path.name: path.read_bytes() for path in photos.iterdir()})
    unpack(mixed, {"notes.txt": b"", "more.TXT": b"", "drawing.svg": b"", ".DS_Store": b"", "__MACOSX/._1.png": b""})
    (mixed / "linked").symlink_to(photos, target_is_directory=True)
    capsys.readouterr()
    assert predict.main([f"--model={tmp_path}/model", "--top_k=1", "--format=jsonl", str(mixed)]) == 0
    captured = capsys.readouterr()
    assert f"{mixed}: 10 images; ignored: 2 .txt, 1 .svg, 1 link (of a folder: linked)\n" in caplog.text
    *answers, found = map(json.loads, captured.out.splitlines())
    assert (found["images"], found["failed"]) == (10, 0)
    lossless = [one["predictions"][0]["probability"] for one in answers[: len(FORMS)]]
    np.testing.assert_allclose(lossless, lossless[0], atol=1e-5)
