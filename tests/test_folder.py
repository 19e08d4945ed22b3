"""Folders of images and archives of them: every file once, the same from both, and everything else refused."""

import os
import tarfile

import numpy as np
import pytest
from files import contents, pack, picture, pixels_of, refused, unpack

from resnet_tf.data import decode, load, resize_center, sources
from resnet_tf.data.sources import index

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


@pytest.fixture
def tree():
    """A small data set, its names in no order."""
    return {
        f"set/{split}/{label}/{number}.png": picture(seed)
        for seed, (split, label, number) in enumerate(
            (split, label, number) for split in ("train", "test") for label in "ba" for number in (2, 10, 1)
        )
    }


@pytest.fixture
def decoded_once(monkeypatch):
    """Decodes the same images only once, wherever they are read from: small sets take long to set up."""
    decode_all, known = sources._decode_all, {}

    def decode_new(examples, view, shape):
        key = tuple(data for data, _, _ in contents(examples)), shape
        if key not in known:
            known[key] = decode_all(examples, view, shape)
        return known[key]

    monkeypatch.setattr(sources, "_decode_all", decode_new)


@pytest.mark.usefixtures("decoded_once")
def test_folder_and_archives_of_it_are_equal(tree, tmp_path):
    tree["set/train/b/notes.txt"] = b"ignored"
    tree["set/train/b/.hidden.png"] = b"ignored"
    tree["set/index.csv"] = b"ignored"
    tree["set/overview.png"] = b"ignored"
    root = unpack(tmp_path / "tree", tree)
    source = load("folder", str(root), image_size=8)
    assert source.classes == ("a", "b")
    paths = [f"set/train/{label}/{number}.png" for label in "ab" for number in (1, 10, 2)]
    assert np.array_equal(source.splits["train"].images, [pixels_of(tree[path]) for path in paths])
    assert source.splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    places = [root / "set"]
    for suffix, mode in {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz"}.items():
        places.append(pack(tmp_path / f"files{suffix}", tree, mode))
    with tarfile.open(tmp_path / "dot.tar", "w") as tar:  # as `tar -c .` does, with the folders
        tar.add(root, ".")
    for place in [*places, tmp_path / "dot.tar"]:
        assert load("folder", str(place), image_size=8).checksum() == source.checksum()


def test_folder_formats_and_sizes(tmp_path):
    files = {}
    for split in ("train", "test"):
        files |= {
            f"{split}/x/a.JPG": picture(0, "JPEG"),
            f"{split}/x/b.jpeg": picture(1, "JPEG", (20, 8), "L"),
            f"{split}/x/c.Png": picture(2, "PNG", (30, 50)),
            f"{split}/x/d.bmp": picture(3, "BMP", (4, 5)),
            f"{split}/x/e.gif": picture(4, "GIF", (8, 9)),
        }
    images = load("folder", str(unpack(tmp_path, files)), image_size=8).splits["train"].images
    for image, (name, data) in zip(images, files.items(), strict=False):
        assert np.array_equal(image, resize_center(decode(data, name), 8))
    assert np.ptp(images[1], axis=-1).max() == 0  # the grey one


@pytest.mark.parametrize("damage", [b"", b"text", picture(0, "JPEG")[:-20], picture(0)[:-20]])
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_image_is_named(tree, damage, packed, tmp_path):
    tree["set/train/b/10.png"] = damage
    place = pack(tmp_path / "c.tar", tree, "w") if packed else unpack(tmp_path, tree)
    assert f"{place}: set/train/b/10.png: " in refused(place)


@pytest.mark.usefixtures("decoded_once")
def test_validation_folders(tree, tmp_path):
    for number, name in enumerate(("val", "valid", "validation")):
        root = tmp_path / name
        unpack(root, {path.replace("/test/", f"/{name}/"): data for path, data in tree.items()})
        alone = load("folder", str(root), image_size=8)
        assert list(alone.splits) == ["train", "validation"]
        earlier = load("folder", str(root), image_size=8, val_is="test")  # as earlier releases named it
        assert list(earlier.splits) == ["train", "test"]
        assert earlier.splits["test"].images.tobytes() == alone.splits["validation"].images.tobytes()
        both = unpack(root, tree)
        unpack(root, {f"set/{name}/{label}/new.png": picture(100 + number) for label in "ab"})
        source = load("folder", str(both), image_size=8)
        assert list(map(len, source.splits.values())) == [6, 6, 8]
        assert set(source.splits) == {"train", "test", "validation"}
        assert pixels_of(picture(100 + number)).tolist() in source.splits["validation"].images.tolist()
        assert "--validation_examples" in refused(both, image_size=8, validation_examples=2)
    unpack(root, {f"set/val/{label}/1.png": picture(0) for label in "ab"})
    assert "set/val, set/validation" in refused(root)


def without(tree, part):
    return {name: data for name, data in tree.items() if part not in name}


def test_folder_layout_errors(tree, tmp_path):
    cases = {
        "no train": (without(tree, "/train/"), "no images for training, only for test"),
        "neither": (
            {"1.png": picture(0)},
            "a CSV of labels (--labels); it has 1",
        ),
        "no classes": ({"train/1.png": picture(0), "val/1.png": picture(1)}, "2 images directly in train, val"),
        "none": ({"1.txt": b""}, "it has no images; ignored: 1 .txt"),
        "two sets": (tree | {"other/train/a/1.png": picture(0)}, "other/train, set/test, set/train"),
        "class only in test": (
            tree | {"set/test/d/1.png": picture(0)},
            "no training images of class d, which test has",
        ),
        "class only in val": (
            tree | {f"set/val/{label}/1.png": picture(0) for label in "abe"},
            "no training images of class e, which validation has; --classes can leave out",
        ),
    }
    for name, (files, expected) in cases.items():
        assert expected in refused(pack(tmp_path / "c.tar", files, "w"))
        assert expected in refused(unpack(tmp_path / name, files))


def test_empty_class_is_refused(tree, tmp_path):
    root = unpack(tmp_path / "tree", tree)
    for split in ("train", "test"):
        (root / "set" / split / "c").mkdir()
    assert "no images of class c in train" in refused(root)
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.add(root, ".")
    assert "no images of class c in train" in refused(tmp_path / "c.tar")


def test_too_large_sets_are_refused_before_decoding(tree, tmp_path, monkeypatch):
    place = pack(tmp_path / "c.tar", tree, "w")
    assert "4 GiB" in refused(place, image_size=20_000)
    monkeypatch.setattr("resnet_tf.data.splits.MAX_BYTES", 12 * 8 * 8 * 3)
    assert "GiB of images" in refused(place, image_size=1)  # the encoded ones: small but all held
    monkeypatch.setattr("resnet_tf.data.splits.MAX_BYTES", sum(map(len, tree.values())))
    load("folder", str(place), image_size=8)


# --- encoded ---------------------------------------------------------------------------------------


def test_every_file_is_an_example_once_and_an_archive_has_the_same(tree, tmp_path):
    root = unpack(tmp_path / "tree", tree | {"set/train/b/notes.txt": b"no", "set/.git/train/a/1.png": b"no"})
    packed = pack(tmp_path / "c.tar.gz", dict(reversed(tree.items())))
    of_folder, of_archive = index("folder", str(root)), index("folder", str(packed))
    assert of_folder.classes == of_archive.classes == ("a", "b")
    found = []
    for name in ("train", "test"):
        examples, other = of_folder.splits[name], of_archive.splits[name]
        assert contents(examples) == contents(other)
        assert examples.storage.names == other.storage.names
        assert examples.storage.sizes.tolist() == [len(data) for data in other.storage.data]
        found += examples.storage.names
        for path, label in zip(examples.storage.names, examples.labels, strict=True):
            assert path.split("/")[1:3] == [name, "ab"[label]]
    assert sorted(found) == sorted(tree)
    assert examples.name(0) == f"{root}: {found[6]}"


def test_encoded_images_are_not_opened(tree, tmp_path, monkeypatch):
    root = unpack(tmp_path, tree)

    def refuse(*_, **__):
        raise AssertionError("a file was opened")

    for where in ("builtins.open", "io.open", "os.open"):
        monkeypatch.setattr(where, refuse)
    assert len(index("folder", str(root)).splits["train"]) == 6


def test_names_that_are_no_utf8(tree, tmp_path):
    root = unpack(tmp_path, tree)
    os.rename(root / "set/train/a/1.png", os.fsencode(root) + b"/set/train/a/\xff.png")
    train = index("folder", str(root)).splits["train"]
    data = sorted(data for name, data in tree.items() if "/train/" in name)
    assert sorted(train.read(i) for i in range(6)) == data
    read = train.storage.reader()
    assert sorted(read(i).numpy() for i in range(6)) == data
    assert len(train.digest()) == 32


def test_order_of_classes(tree, tmp_path):
    root = unpack(tmp_path, tree)
    source, turned = index("folder", str(root)), index("folder", str(root), classes=("b", "a"))
    assert turned.classes == ("b", "a")
    for name, split in source.splits.items():
        assert [data for data, _, _ in contents(split)] == [data for data, _, _ in contents(turned.splits[name])]
        assert (turned.splits[name].labels == 1 - split.labels).all()
    loaded = load("folder", str(root), image_size=8, classes=("b", "a"))
    assert loaded.classes == ("b", "a") and loaded.splits["test"].labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert "--classes: not in the data: c; they have a, b" in refused(root, using=index, classes=("a", "c"))


def test_links_of_a_folder(tree, tmp_path):
    root = unpack(tmp_path / "tree", tree)
    outside = unpack(tmp_path / "outside", {"1.png": picture(9), "a/1.png": picture(9)})
    (root / "set/train/a/inside.png").symlink_to("1.png")
    (root / "set/train/c").symlink_to(outside / "a", target_is_directory=True)  # not followed
    os.mkfifo(root / "set/train/a/pipe.png")
    assert len(index("folder", str(root)).splits["train"]) == 7
    (root / "set/train/b/out.png").symlink_to(outside / "1.png")
    assert "set/train/b/out.png: refused, a link that leads outside" in refused(root, using=index)


def test_an_archive_too_large_for_memory_is_refused(tree, tmp_path, monkeypatch):
    packed, root = pack(tmp_path / "c.tar", tree, "w"), unpack(tmp_path / "tree", tree)
    monkeypatch.setattr("resnet_tf.data.splits.MAX_BYTES", sum(map(len, tree.values())) - 1)
    message = refused(packed, using=index)
    assert message.startswith(f"--data_dir: {packed} holds over") and "resnet_tf.prepare" in message
    assert len(index("folder", str(root)).splits["train"]) == 6


def test_real_imagenette_archive(real_data):
    source = index("folder", str(real_data / "imagenette192.tar"))
    assert counts(source) == {"train": 9469, "validation": 3925} and len(source.classes) == 10


# --- What lies beside, below and behind links ------------------------------------------------------------------------


def counts(source):
    return {name: len(split) for name, split in source.splits.items()}


def places(tree, tmp_path):
    return unpack(tmp_path / "tree", tree), pack(tmp_path / "c.tar", tree, "w")


def test_images_in_subfolders_of_a_class_belong_to_it(tree, tmp_path):
    deep = {name.replace("/a/", "/a/of/one/day/"): data for name, data in tree.items()}
    for place in places(deep, tmp_path):
        assert counts(index("folder", str(place))) == {"train": 6, "test": 6}
    plain = load("folder", str(unpack(tmp_path / "plain", tree)), image_size=8)
    assert load("folder", str(tmp_path / "tree"), image_size=8).checksum() == plain.checksum()
    lone = {f"{split}/images/{label}/1.png": picture(0) for split in ("train", "test") for label in "ab"}
    for place in places(lone, tmp_path / "lone"):
        assert "one class, images, with all images in folders below it" in refused(place, using=index)


@pytest.mark.parametrize(
    "train, test", [("Train", "TEST"), ("training", "Testing"), ("train", "dev"), ("TRAIN", "Valid"), ("train", "VAL")]
)
def test_names_of_splits_in_any_case(train, test, tree, tmp_path):
    renamed = {name.replace("/train/", f"/{train}/").replace("/test/", f"/{test}/"): d for name, d in tree.items()}
    for place in places(renamed, tmp_path):
        source = index("folder", str(place))
        expected = "test" if test.lower().startswith("test") else "validation"
        assert counts(source) == {"train": 6, expected: 6} and not source.ignored


def test_names_that_were_known_before_have_precedence(tree, tmp_path):
    """So that sets which loaded load as they did, and what is left is said."""
    files = tree | {f"set/val/{label}/1.png": picture(1) for label in "ab"}
    files |= {"set/dev/a/1.png": picture(2), "set/Training/a/1.png": picture(2), "set/readme/a.png": picture(2)}
    for place in places(files, tmp_path):
        source = index("folder", str(place))
        assert counts(source) == {"train": 6, "test": 6, "validation": 2}
        said = sorted(source.ignored.split(", "))
        assert said == ["1 images in set/Training/", "1 images in set/dev/", "1 images outside of SPLIT/CLASS"]
    twice = tree | {f"set/{name}/{label}/1.png": picture(1) for label in "ab" for name in ("dev", "Val")}
    for place in places(twice, tmp_path / "twice"):
        assert "more than one data set or split of a kind: set/Val, set/dev" in refused(place, using=index)


def test_a_set_below_a_folder_that_has_the_name_of_a_split(tree, tmp_path):
    below = {name.replace("set/", "test/set/"): data for name, data in tree.items()}
    for place in places(below, tmp_path):
        assert counts(index("folder", str(place))) == {"train": 6, "test": 6}


def test_what_systems_leave_is_no_second_set(tree, tmp_path):
    junk = {f"__MACOSX/{name}": b"junk" for name in tree} | {"set/train/.DS_Store": b"", "set/train/a/Thumbs.db": b""}
    junk |= {"set/desktop.ini": b"", "set/train/a/._0.png": b"", "__MACOSX/set/train/a/._0.png": b""}
    for place in places(junk | tree, tmp_path):
        source = index("folder", str(place))
        assert counts(source) == {"train": 6, "test": 6} and source.ignored == ""
        assert str(source) == "train 6 images, test 6, 2 classes"


def test_what_is_ignored_is_counted_by_kind(tree, tmp_path):
    beside = {f"set/train/a/{number}.TXT": b"" for number in range(1200)} | {
        "set/train/b/x.svg": b"",
        "set/README": b"",
    }
    beside |= {"set/train/lost.png": picture(3)}
    for place in places(tree | beside, tmp_path):
        source = index("folder", str(place))
        assert str(source).startswith("train 6 images, test 6, 2 classes; ignored: 1,200 .txt, ")
        kinds = {"1200 .txt", "1 .svg", "1 without suffix", "1 images outside of SPLIT/CLASS"}
        assert set(source.ignored.replace("1,200", "1200").split(", ")) == kinds
        assert load("folder", str(place), image_size=8).ignored == source.ignored


def test_linked_folders_of_classes(tree, tmp_path):
    """Those within the set are followed; those out of it, in circles, or broken are named and nothing else changes."""
    root = unpack(tmp_path / "tree", tree)
    outside = unpack(tmp_path / "outside", {"1.png": picture(9)})
    for split in ("train", "test"):
        (root / "set" / split / "c").symlink_to("../../set/train/a", target_is_directory=True)
    source = index("folder", str(root))
    assert source.classes == ("a", "b", "c") and counts(source) == {"train": 9, "test": 9} and not source.ignored
    assert [source.splits["train"].read(at) for at in (0, 1)] == [source.splits["train"].read(at) for at in (6, 7)]
    (root / "set/train/d").symlink_to(outside, target_is_directory=True)
    (root / "set/train/b/circle").symlink_to("..", target_is_directory=True)
    (root / "set/train/b/self").symlink_to(".", target_is_directory=True)
    (root / "set/train/b/gone.png").symlink_to("nowhere.png")
    (root / "set/val").symlink_to("test", target_is_directory=True)
    linked = index("folder", str(root))
    assert linked.checksum() == source.checksum()
    assert linked.ignored == (
        "5 links (broken: set/train/b/gone.png; in a circle: set/train/b/circle, set/train/b/self; "
        "of a folder: set/val; outside of the folder: set/train/d)"
    )


def test_links_that_lead_to_each_other_end(tree, tmp_path):
    root = unpack(tmp_path / "tree", tree)
    (root / "set/train/a/x").symlink_to("../b", target_is_directory=True)
    (root / "set/train/b/y").symlink_to("../a", target_is_directory=True)
    source = index("folder", str(root))
    assert counts(source) == {"train": 12, "test": 6}
    assert source.ignored == "2 links (in a circle: set/train/a/x/y, set/train/b/y/x)"
