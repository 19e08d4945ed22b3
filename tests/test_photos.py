"""Folders of photos as people have them: classes in folders or in a table, without splits, with faults."""

import os
import unicodedata
import zipfile

import numpy as np
import pytest
from files import contents, pack, picture, refused, unpack

from resnet_tf.data import sources, splits
from resnet_tf.data.sources import index
from resnet_tf.errors import InputError

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


def counts(source):
    return {name: len(split) for name, split in source.splits.items()}


def labelled(source):
    """{split: {name: class}}."""
    return {
        name: {file: source.classes[label] for file, label in zip(split.names, split.labels, strict=True)}
        for name, split in source.splits.items()
    }


def photos(**sizes):
    """So many images of noise for each class, all different."""
    seeds = iter(range(1000))
    return {f"{label}/{number}.png": picture(next(seeds)) for label, size in sizes.items() for number in range(size)}


def zipped(path, files, folders=()):
    with zipfile.ZipFile(path, "w") as archive:
        for folder in folders:
            archive.mkdir(folder)
        for name, data in files.items():
            archive.writestr(name, data)
    return path


# --- CLASS/IMAGE -----------------------------------------------------------------------------------------------------


def test_folders_of_classes_without_splits_are_for_training(tmp_path):
    files = photos(cat=3, dog=2) | {"cat/2024/may/9.png": picture(99), "notes.txt": b"", ".git/a/1.png": b""}
    wrapped = {f"photos/{name}": data for name, data in files.items()}
    places = [
        unpack(tmp_path / "plain", files),
        unpack(tmp_path / "wrapped", wrapped),
        unpack(tmp_path / "twice", {f"download/{name}": data for name, data in wrapped.items()}),
        zipped(tmp_path / "a.zip", wrapped | {f"__MACOSX/{name}": b"" for name in wrapped}),
        pack(tmp_path / "a.tar", wrapped),
    ]
    for place in places:
        source = index("folder", str(place))
        assert source.classes == ("cat", "dog") and counts(source) == {"train": 6}
        assert contents(source.splits["train"]) == contents(index("folder", str(places[0])).splits["train"])
        assert source.ignored == "1 .txt" and source.how == "" and not source.was_split
    loose = unpack(places[1], {"photos/title.png": picture(0), "cover.png": picture(0)})
    assert index("folder", str(loose)).ignored == "2 images outside of CLASS, 1 .txt"


def test_an_empty_folder_among_classes_is_said(tmp_path):
    root = unpack(tmp_path / "set", photos(cat=2, dog=2))
    (root / "bird").mkdir()
    source = index("folder", str(root))
    assert source.classes == ("cat", "dog") and source.how == "without images: the folder bird"
    packed = zipped(tmp_path / "a.zip", photos(cat=2, dog=2), ["bird"])
    assert index("folder", str(packed)).how == source.how


def test_a_linked_folder_is_a_class_and_a_train_a_vehicle(tmp_path):
    root = unpack(tmp_path / "set", photos(car=2, bus=1, train=3))
    (root / "lorry").symlink_to("bus", target_is_directory=True)
    source = index("folder", str(root))
    assert source.classes == ("bus", "car", "lorry", "train") and counts(source) == {"train": 7}


def test_training_alone_and_splits_that_lack_classes(tmp_path):
    tree = {f"train/{name}": data for name, data in photos(a=2, b=2, c=1).items()}
    assert counts(index("folder", str(unpack(tmp_path / "set", tree)))) == {"train": 5}
    source = index("folder", str(unpack(tmp_path / "set", {"val/a/1.png": picture(50), "test/b/1.png": picture(51)})))
    assert counts(source) == {"train": 5, "test": 1, "validation": 1}
    assert source.how == "no image in test of class a, c; no image in validation of class b, c"
    unpack(tmp_path / "set", {"val/z/1.png": picture(52)})
    assert "no training images of class z, which validation has" in refused(tmp_path / "set", using=index)
    assert counts(index("folder", str(tmp_path / "set"), classes=("a", "b", "c")))["validation"] == 1


# --- Names of classes ------------------------------------------------------------------------------------------------


def test_some_classes_of_the_data(tmp_path):
    root = unpack(tmp_path / "set", photos(cat=3, dog=2, horse=1))
    source = index("folder", str(root), classes=("horse", "cat"))
    assert source.classes == ("horse", "cat") and source.splits["train"].labels.tolist() == [1, 1, 1, 0]
    assert source.ignored == "2 images of 1 other class"
    assert len(source.splits["train"].storage.names) == 4
    assert index("folder", str(root), classes=("dog",)).ignored == "4 images of 2 other classes"
    message = refused(root, using=index, classes=("cat", "hors"))
    assert message == "--classes: not in the data: hors (did you mean horse?)"


@pytest.mark.parametrize("first, second", [("Cat", "cat"), ("café", "cafe"), ("cat ", "cat"), ("STRASSE", "straße")])
def test_classes_of_almost_one_name_are_refused(first, second, tmp_path):
    for number, (one, other) in enumerate(((f"{first}", f"{second}"), (f"train/{first}", f"val/{second}"))):
        files = {f"{one}/1.png": picture(1), f"{other}/2.png": picture(2), "train/dog/3.png": picture(3)}
        if not number:
            files.pop("train/dog/3.png")
        message = refused(zipped(tmp_path / f"{number}.zip", files), using=index)
        assert "differ only by case, accents or blanks" in message
        assert repr(f"train/{first}") in message and f"/{second}'" in message


def test_letters_and_other_scripts_may_be_alike(tmp_path):
    names = ["a", "A", "é", "e", "かき", "がき"]
    source = index("folder", str(unpack(tmp_path, {f"{name}/1.png": picture(n) for n, name in enumerate(names)})))
    assert sorted(source.classes) == sorted(names)


def test_two_forms_of_unicode_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    names = [f"train/{composed}/1", "train/tea/1", f"val/{decomposed}/1", f"train/{decomposed}/2"]
    source = index("folder", str(unpack(tmp_path, {f"{name}.png": picture(n) for n, name in enumerate(names)})))
    assert source.classes == (composed, "tea") and counts(source) == {"train": 3, "validation": 1}
    assert source.splits["train"].labels.tolist() == [0, 0, 1]


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    root = unpack(tmp_path / "one", photos(cat=3))
    with pytest.raises(InputError, match="--data_dir: one class only, cat"):
        splits.check_trainable(index("folder", str(root)))
    source = index("folder", str(unpack(tmp_path / "two", photos(cat=3, dog=1))))
    splits.check_trainable(source)
    lacking = splits.Source("folder", ("ant", *source.classes), {"train": source.splits["train"]})
    with pytest.raises(InputError, match="no training image of class dog"):
        splits.check_trainable(lacking)


# --- Tables of labels ------------------------------------------------------------------------------------------------


@pytest.fixture
def flat(tmp_path):
    """Images in one folder."""
    return unpack(tmp_path / "flat", {f"images/{number}.png": picture(number) for number in range(6)})


def table(path, text, encoding="utf-8"):
    path.write_text(text, encoding)
    return str(path)


@pytest.mark.parametrize(
    "text, encoding",
    [
        ("file,label\nimages/0.png,dog\nimages/1.png,cat\nimages/2.png,dog\n", "utf-8"),
        ("ID,Breed\r\n0,dog\r\n1,cat\r\n2,dog\r\n", "utf-8-sig"),
        ("rank;Image_Name;Species\n1;0.png; dog\n2;1.png;cat\n\n3;./images/2.png;dog\n", "utf-8"),
        ("filename\tclass\n0.png\tdog\nimages\\1.png\tcat\n2.png\tdog\n2.png\tdog\n", "utf-16"),
        ('label,class_name,image_id\n0,dog,0\n1,cat,1\n0,"dog",2\n', "utf-8"),
        ("path,disease\n0.png,dog\n1.png,cat\n2.png,dog\n", "utf-8"),
    ],
)
def test_labels_of_a_table(flat, text, encoding, tmp_path):
    source = index("folder", str(flat), labels=table(tmp_path / "mine.csv", text, encoding))
    assert labelled(source) == {"train": {"images/1.png": "cat", "images/0.png": "dog", "images/2.png": "dog"}}
    assert source.how == "labels from mine.csv" and source.ignored == "3 images without a label"


def test_splits_of_a_table(flat, tmp_path):
    rows = "0,a,train\n1,b,Train\n2,a,val\n3,b,valid\n4,a,test\n5,b,TEST\n"
    source = index("folder", str(flat), labels=table(tmp_path / "t.csv", "id,label,Set\n" + rows))
    assert counts(source) == {"train": 2, "test": 2, "validation": 2} and source.ignored == ""
    assert source.how == "labels from t.csv, splits from its column Set"
    files = {f"{split}/{label}.png": picture(n) for n, (split, label) in enumerate([*zip("ttvv", "abcd", strict=True)])}
    names = {"t": "train", "v": "valid"}
    root = unpack(tmp_path / "x", {names[name[0]] + name[1:]: data for name, data in files.items()})
    unpack(root, {"labels.csv": b"name,label\na.png,x\nb.png,y\nc.png,x\nd.png,y\n"})
    source = index("folder", str(root))
    assert counts(source) == {"train": 2, "validation": 2}
    assert source.how == "labels from labels.csv, splits from the folders"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("id,label\n0,a\n77,b\n1,b\n", "a file is missing: 77"),
        ("id,label\n77,a\n78,b\n1,b\n", "2 of 3 files are missing: 77, 78"),
        ("id,label\n0,a\n1,b\n0.png,c\n", "images/0.png is a in line 2 and c in line 4"),
        ("id,label,split\n0,a,train\n0,a,val\n", "images/0.png is a train in line 2 and a validation in line 3"),
        ("id,label\n0,a\n1, \n", "line 3: no label"),
        ("id,label\n0,a\n1\n", "line 3: no label"),
        ("id,label\n0,a\n,b\n", "line 3: no file"),
        ("id,label,split\n0,a,train\n1,b,fold1\n", "line 3: 'fold1' is none of the splits"),
        ("id,label,split\n0,a,test\n1,b,test\n", "no images for training, only for test"),
        ("one,two\n0,a\n", "needs a header with a column of files"),
        ("id,healthy,rust\n0,1,0\n", "found id, healthy, rust"),
        ("id,label\n", "the table has no rows"),
        ("file,label\n0.png,a\n1,5.png,b\n", "line 3: more cells than the header has"),
        ('id,label\n0,"a\nb"\n', "line 3: a label with a line break or control character"),
        ("\0\1,\2\n3,4\n", "found '\\x00\\x01', '\\x02'"),
        ("", "the table is empty"),
        ("id,label\n0,Cat\n1,cat\n", "'train/Cat' and 'train/cat' differ only by case"),
        ('id,label\n0,"' + "x" * 200_000 + '"\n', "no CSV (field larger than field limit"),
    ],
)
def test_faults_of_a_table_are_named(flat, text, expected, tmp_path):
    path = table(tmp_path / "mine.csv", text)
    message = refused(flat, using=index, labels=path)
    assert expected in message
    if "Cat" not in text and "only for test" not in expected:
        assert message.startswith(f"--labels: {path}")


def test_other_faults_of_labels(flat, tmp_path):
    assert refused(flat, using=index, labels=str(tmp_path / "no.csv")).startswith("--labels: ")
    assert "--labels is for --dataset=folder" in refused("", "synthetic", index, labels="x.csv")
    unpack(flat, {"other/0.png": picture(9)})
    path = table(tmp_path / "mine.csv", "id,label\n0,a\n1,b\n")
    assert "0 means several files: images/0.png, other/0.png" in refused(flat, using=index, labels=path)
    (tmp_path / "latin.csv").write_bytes("id,label\n2,café\n".encode("latin-1"))
    assert "line 2: a label that is no UTF-8" in refused(flat, using=index, labels=str(tmp_path / "latin.csv"))


def test_a_table_beside_the_images_is_found(tmp_path):
    files = {f"train/{number}.jpg": picture(number, "JPEG") for number in range(4)}
    rows = b"id,breed\n0,beagle\n1,pug\n2,pug\n3,beagle\n"
    kaggle = files | {"test/9.jpg": picture(9, "JPEG"), "labels.csv": rows}
    kaggle |= {"sample_submission.csv": b"id,label\n9,pug\n", "prices.csv": b"item,price\n1,2\n"}
    kaggle |= {"unfit.csv": b"id,label\n50,x\n"}
    expected = {"train/0.jpg": "beagle", "train/3.jpg": "beagle", "train/1.jpg": "pug", "train/2.jpg": "pug"}
    for place in (unpack(tmp_path / "set", kaggle), zipped(tmp_path / "set.zip", kaggle)):
        source = index("folder", str(place))
        assert labelled(source) == {"train": expected} and source.how == "labels from labels.csv"
        assert source.ignored == "3 .csv, 1 images without a label"
    os.rename(tmp_path / "set/labels.csv", tmp_path / "set/train.csv")
    assert len(index("folder", str(tmp_path / "set/train")).splits["train"]) == 4
    unpack(tmp_path / "set", {"labels.csv": rows})
    message = refused(tmp_path / "set", using=index)
    assert "several tables of labels: labels.csv, train.csv; choose one of them with --labels" in message


def test_folders_of_all_images_are_no_classes(tmp_path):
    """Kaggle's train_images and test_images beside train.csv, and one folder of any name."""
    rows = b"image_id,label\n0.png,3\n1.png,0\n"
    for number, folders in enumerate(
        (("train_images", "test_images"), ("images",), ("HAM_images_part_1",), ("leaves",))
    ):
        root = unpack(tmp_path / str(number), {f"{folders[0]}/{n}.png": picture(n) for n in (0, 1)})
        unpack(root, {f"{folder}/9.png": picture(9) for folder in folders[1:]})
        if folders == ("leaves",):
            assert index("folder", str(root)).classes == ("leaves",)
        else:
            assert f"directly in {', '.join(sorted(folders))}" in refused(root, using=index)
        source = index("folder", str(unpack(root, {"train.csv": rows, "test.csv": b"image_id\n9.png\n"})))
        assert labelled(source) == {"train": {f"{folders[0]}/0.png": "3", f"{folders[0]}/1.png": "0"}}
    mixed = {"test tube/1.png": picture(1), "flask/1.png": picture(2)}
    assert index("folder", str(unpack(tmp_path / "mixed", mixed))).classes == ("flask", "test tube")


# --- Shares ----------------------------------------------------------------------------------------------------------


def test_shares_are_of_each_class_and_the_same_everywhere(tmp_path):
    files = photos(cat=20, dog=11, owl=4)
    root = unpack(tmp_path / "set", files)
    source = index("folder", str(root), validation_share=0.2, test_share=0.1)
    assert [np.bincount(split.labels).tolist() for split in source.splits.values()] == [
        [14, 8, 2],
        [2, 1, 1],
        [4, 2, 1],
    ]
    assert source.was_split and source.how == "split by seed 0: 20% of each class for validation and 10% for test"
    assert str(source) == f"train 24 images, test 4, validation 7, 3 classes; {source.how}"
    found = labelled(source)
    assert sorted(name for split in found.values() for name in split) == sorted(files)
    assert labelled(index("folder", str(root), validation_share=0.2))["validation"] == found["validation"]
    other = index("folder", str(root), validation_share=0.2, test_share=0.1, split_seed=1)
    assert labelled(other) != found and counts(other) == counts(source)
    turned = index("folder", str(root), ("owl", "dog", "cat"), validation_share=0.2, test_share=0.1)
    assert labelled(turned) == found
    more = unpack(tmp_path / "more", files | {"cat/new.png": picture(900)})
    grown = labelled(index("folder", str(more), validation_share=0.2))["validation"]
    assert len(grown.keys() ^ found["validation"].keys()) <= 3  # it or another one moves, and no more
    wrapped = zipped(tmp_path / "set.zip", {f"set/{name}": data for name, data in reversed(files.items())})
    again = labelled(index("folder", str(wrapped), validation_share=0.2, test_share=0.1))
    assert {split: {f"set/{name}": label for name, label in of.items()} for split, of in found.items()} == again
    loaded = sources.load("folder", str(root), 8, validation_share=0.2, test_share=0.1)
    assert labelled(loaded) == found and loaded.how == source.how and loaded.was_split


def test_shares_are_for_splits_that_the_data_lack(tmp_path):
    files = {f"train/{name}": data for name, data in photos(a=4, b=4).items()}
    root = unpack(tmp_path, files | {"val/a/x.png": picture(900), "val/b/x.png": picture(901)})
    source = index("folder", str(root), validation_share=0.5, test_share=0.25)
    assert counts(source) == {"train": 6, "test": 2, "validation": 2}
    assert source.how == "split by seed 0: 25% of each class for test"
    whole = index("folder", str(root), validation_share=0.5)
    assert counts(whole) == {"train": 8, "validation": 2} and not whole.was_split and whole.how == ""
    held = index("folder", str(root), val_is="test", validation_examples=2, validation_share=0.5)
    assert counts(held) == {"train": 6, "test": 2, "validation": 2} and not held.was_split
    small = sources.load("digits", 8, validation_share=0.1)
    assert counts(small) == {"train": 1293, "test": 360, "validation": 144}


def test_classes_of_few_images(tmp_path):
    root = unpack(tmp_path / "set", photos(one=1, two=2, three=3, many=10))
    source = index("folder", str(root), validation_share=0.1)
    assert np.bincount(source.splits["validation"].labels).tolist() == [1, 0, 1, 1]  # many, one, three, two
    assert source.how.endswith("; too few images for validation of class one, which stay in training")
    source = index("folder", str(root), validation_share=0.1, test_share=0.1)
    assert np.bincount(source.splits["validation"].labels).tolist() == [1, 0, 1, 1]
    assert np.bincount(source.splits["test"].labels).tolist() == [1, 0, 1]
    assert source.how.endswith("; too few images for test of class one, two, which stay in training")
    bad = {"a/1.png": b"", "a/2.png": b"", "b/1.jpg": b"x", "b/2.jpg": b""}  # found when they are decoded
    assert counts(index("folder", str(unpack(tmp_path / "bad", bad)), validation_share=0.5))["train"] == 2
    lone = index("folder", str(unpack(tmp_path / "lone", photos(a=1, b=1))), validation_share=0.5)
    assert counts(lone) == {"train": 2} and not lone.was_split and "too few images for validation" in lone.how
    large = index("folder", str(root), validation_share=0.9)
    assert np.bincount(large.splits["train"].labels).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"validation_share": 1.0}, "--validation_share: 1.0 is not in the range"),
        ({"test_share": -0.1}, "--test_share: -0.1"),
        ({"test_share": float("nan")}, "--test_share: nan"),
        ({"validation_share": 0.5, "test_share": 0.5}, "--validation_share and --test_share: 0.5 + 0.5 leave nothing"),
        ({"validation_share": 0.5, "split_seed": -1}, "--split_seed: -1 is negative"),
    ],
)
def test_shares_out_of_range(options, expected):
    assert refused("", "synthetic", index, **options).startswith(expected)


def burst(seed, count):
    """JPEGs of one photo, saved with more and more loss."""
    import io

    from PIL import Image

    small = np.random.default_rng(seed).integers(30, 220, (6, 8, 3)).astype(np.uint8)
    photo = Image.fromarray(small).resize((160, 144), Image.Resampling.BICUBIC)
    found = []
    for number in range(count):
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=95 - 2 * number)
        found.append(file.getvalue())
    return found


def test_near_duplicates_stay_on_one_side(tmp_path):
    files = photos(cat=10, dog=10)
    files |= {f"cat/burst{number}.jpg": data for number, data in enumerate(burst(1, 4))}
    files |= {f"dog/burst{number}.jpg": data for number, data in enumerate(burst(2, 3))}
    files |= {"dog/copy.png": files["dog/3.png"], "cat/copy.png": files["dog/4.png"], "cat/bad.png": b"no image"}
    files |= {"cat/empty.jpg": b""}
    root = unpack(tmp_path, files)
    together = [[f"cat/burst{n}.jpg" for n in range(4)], [f"dog/burst{n}.jpg" for n in range(3)]]
    together += [["dog/copy.png", "dog/3.png"], ["cat/copy.png", "dog/4.png"]]
    sides = set()
    for seed in range(6):
        source = index("folder", str(root), validation_share=0.35, test_share=0.2, split_seed=seed)
        found = {name: split for split, of in labelled(source).items() for name in of}
        assert len(found) == len(files) and "11 near-duplicates kept together" in source.how
        for group in together:
            assert len({found[name] for name in group}) == 1
            sides |= {found[name] for name in group}
    assert sides == {"train", "test", "validation"}


def test_a_class_of_one_burst_is_split_all_the_same(tmp_path):
    files = photos(cat=6) | {f"dog/{number}.jpg": data for number, data in enumerate(burst(2, 5))}
    source = index("folder", str(unpack(tmp_path, files)), validation_share=0.2)
    assert np.bincount(source.splits["validation"].labels).tolist() == [1, 1]
    assert source.how.endswith("validation; near-duplicates of class dog not kept together, since there is little else")
    pairs = {f"dog/{seed}{number}.jpg": data for seed in (3, 4) for number, data in enumerate(burst(seed, 2))}
    source = index("folder", str(unpack(tmp_path / "pairs", photos(cat=6) | pairs)), validation_share=0.2)
    names = [name for name, label in labelled(source)["validation"].items() if label == "dog"]
    assert len(names) == 2 and names[0][:5] == names[1][:5]


# --- The table of a split --------------------------------------------------------------------------------------------


def test_a_written_table_leads_to_the_same_splits(tmp_path):
    odd = {'cat/a, "b".png': picture(200), "cat/größe 猫.png": picture(201), "dog/tab\t;x.png": picture(202)}
    root = unpack(tmp_path / "set", photos(cat=7, dog=7) | odd)
    os.rename(root / "dog/0.png", os.fsencode(root) + b"/dog/\xff.png")
    source = index("folder", str(root), validation_share=0.25, test_share=0.25, split_seed=3)
    path = tmp_path / "splits.csv"
    assert splits.write_table(source, path)
    lines = path.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    assert lines[0] == "file,label,split" and len(lines) == 18
    assert lines[1:] == sorted(lines[1:], key=lambda line: line.lstrip('"'))
    again = index("folder", str(root), labels=str(path), validation_share=0.25, test_share=0.25, split_seed=9)
    assert labelled(again) == labelled(source) and again.classes == source.classes
    assert again.checksum() == source.checksum() and not again.was_split
    assert again.how == "labels from splits.csv, splits from its column split"
    assert not splits.write_table(sources.load("digits", image_size=8), tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


# --- Scoring ---------------------------------------------------------------------------------------------------------


def test_a_folder_to_score(tmp_path):
    network = ("dog", "cat", "cow")
    root = unpack(tmp_path / "plain", photos(cat=3, dog=2, yeti=1))
    source = sources.scored_folder(str(root), network, exif="ignore")
    assert source.classes == network and counts(source) == {"test": 5}
    assert source.splits["test"].labels.tolist() == [0, 0, 1, 1, 1] and source.splits["test"].exif == "ignore"
    assert source.ignored == "1 images of 1 other class"
    assert source.how == "not a class of the network: yeti; no image of class cow"
    single = unpack(tmp_path / "single", {"photos/cat/1.png": picture(0), "photos/cat/old/2.png": picture(1)})
    for place in (single, single / "photos"):
        assert sources.scored_folder(str(place), network).splits["test"].labels.tolist() == [1, 1]
    deep = unpack(tmp_path / "deep", {"photos/cat/may/1.png": picture(0)})
    assert len(sources.scored_folder(str(deep), network).splits["test"]) == 1
    split = {"train/cat/1.png": picture(1), "val/dog/1.png": picture(2), "val/dog/2.png": picture(3)}
    root = unpack(tmp_path / "split", split)
    assert sources.scored_folder(str(root), network, split="valid").splits["test"].labels.tolist() == [0, 0]
    with pytest.raises(InputError, match=r"--data_dir: .* has no images in a split test, only in train, validation"):
        sources.scored_folder(str(root), network)
    only = unpack(tmp_path / "only", {"test/cat/1.png": picture(1)})
    (only / "test/dog").mkdir()
    assert counts(sources.scored_folder(str(only), network)) == {"test": 1}
    flat = unpack(tmp_path / "flat", {"1.png": picture(1), "2.png": picture(2)})
    labels = table(tmp_path / "x.csv", "file,label\n1.png,cow\n2.png,cat\n")
    assert sources.scored_folder(str(flat), network, labels).splits["test"].labels.tolist() == [1, 2]
    with pytest.raises(InputError, match=r"--data_dir: .* has images of cat, dog, yeti, none of which is a class"):
        sources.scored_folder(str(tmp_path / "plain"), ("Cat", "bird"))


# --- Zip archives ----------------------------------------------------------------------------------------------------


def test_zip_archives_are_refused_in_one_line(tmp_path):
    whole = zipped(tmp_path / "a.zip", photos(cat=2, dog=2)).read_bytes()
    for cut in (0, 3, 30, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.zip").write_bytes(whole[:cut])
        assert str(tmp_path / "cut.zip") in refused(tmp_path / "cut.zip", using=index)
    at = whole.index(b"IDAT")  # the checksum of the member tells
    (tmp_path / "cut.zip").write_bytes(whole[: at + 10] + bytes([whole[at + 10] ^ 1]) + whole[at + 11 :])
    assert "damaged or truncated archive (Bad CRC-32" in refused(tmp_path / "cut.zip", using=index)
    secret = bytearray(whole)
    for start in (whole.index(b"PK\x03\x04") + 6, whole.index(b"PK\x01\x02") + 8):
        secret[start] |= 1
    (tmp_path / "cut.zip").write_bytes(secret)
    assert "cat/0.png is encrypted" in refused(tmp_path / "cut.zip", using=index)
    outside = zipped(tmp_path / "b.zip", {"../cat/1.png": picture(0)})
    assert "refused member '../cat/1.png'" in refused(outside, using=index)
    link = zipfile.ZipInfo("cat/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr(link, "../x")
    assert "a link or a device" in refused(tmp_path / "c.zip", using=index)
    assert "it has no images" in refused(zipped(tmp_path / "d.zip", {}), using=index)


def test_a_zip_of_windows_with_backslashes(tmp_path):
    files = {f"set\\{name}".replace("/", "\\"): data for name, data in photos(cat=2, dog=2).items()}
    assert index("folder", str(zipped(tmp_path / "a.zip", files))).classes == ("cat", "dog")
