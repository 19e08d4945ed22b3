"""Files, archives and pictures to read, and how a source refuses them."""

import importlib
import io
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from resnet_tf.data import load
from resnet_tf.errors import InputError


def command_of(recipe):
    """The command, a module, that the header of a recipe's flagfile names with the recipe itself."""
    told = rf"(?:flagfile=flags/{re.escape(recipe.name)}|recipe={recipe.stem} )"
    found = re.search(rf"python -m (resnet_tf[.\w]+) --{told}", recipe.read_text())
    assert found, f"{recipe}: no command in its header"
    return importlib.import_module(found[1])


def refused(data_dir, dataset="folder", using=load, **options):
    """The message with which `load`, or `index`, refuses."""
    with pytest.raises(InputError) as caught:
        using(dataset, str(data_dir), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def pack(path, files, mode="w:gz"):
    """Writes an archive of files given as bytes or as a ready TarInfo."""
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


def unpack(path, files):
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


def picture(seed, form="PNG", size=(8, 8), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


def pixels_of(data):
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def as_record(features):
    """A serialised tf.train.Example of bytes, integers, floats, or lists of them."""
    import tensorflow as tf

    def feature(value):
        values = value if isinstance(value, list) else [value]
        if values and isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if values and isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    named = {name: feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write_shard(path, records):
    """Writes serialised records as one TFRecord shard."""
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def contents(examples):
    """Encoded image, label and box of each example, in order."""
    boxes = [None] * len(examples) if examples.boxes is None else examples.boxes.tolist()
    return [(examples.read(i), int(examples.labels[i]), boxes[i]) for i in range(len(examples))]
