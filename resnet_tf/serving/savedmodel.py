"""A run -> a SavedModel that answers what its evaluation answered.

Signatures:

    serving_default  image_bytes: string [batch], each a JPEG, PNG, BMP or GIF
    images           images: uint8 [batch, height, width, 3] of any size

Both go through the view of evaluation (`images.resize_center`) and return

    classes        string [batch, k]: names of the k = min(5, classes) likeliest, best first
    scores         float32 [batch, k]: their probabilities
    probabilities  float32 [batch, classes], in the order of the training labels
"""

import os
import pathlib
import shutil

import keras
import tensorflow as tf
import yaml

from resnet_tf.config import evaluation_size
from resnet_tf.data import images as views
from resnet_tf.errors import InputError
from resnet_tf.training import network, restore


def export(run_folder, out, weights="raw"):
    """Write the SavedModel of a run, whole or not at all.

    Args:
        run_folder: of the run.
        out: folder to make; refused where it exists.
        weights: "raw", "ema" or "best"; see `restore`.

    Returns:
        {"model": the folder, "run": the run's folder, "classes": how many, "signatures": their names}.

    Raises:
        InputError: no such run, or `out` exists.
    """
    out = new_folder(out)
    run, values, normalization = restore.load(run_folder, weights)
    model = restore.build_model(run, values, weights)
    classes = run.manifest["classes"]
    classify = _classifier(model, normalization, classes)
    size, resize = evaluation_size(run.config.data), run.config.data.resize

    def from_bytes(image_bytes):
        def view(data):
            return views.resize_center(views.decode_tensor(data), size, resize)

        signature = tf.TensorSpec([size, size, 3], tf.uint8)
        return classify(tf.map_fn(view, image_bytes, fn_output_signature=signature))

    def from_images(images):
        return classify(views.resize_center(images, size, resize))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", from_bytes, [tf.TensorSpec([None], tf.string, name="image_bytes")])
    archive.add_endpoint("images", from_images, [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    write(out, archive, run, normalization)
    return {
        "model": str(out),
        "run": str(run.folder),
        "classes": len(classes),
        "signatures": ["serving_default", "images"],
    }


def new_folder(out):
    """The folder of a model to come, a `pathlib.Path`; raises InputError where it exists."""
    out = pathlib.Path(out)
    if out.exists():
        raise InputError(f"--out={out}: exists already; remove it or choose another")
    return out


def write(out, archive, run, normalization):
    """Write an archive of endpoints with what its network is, whole or not at all.

    Args:
        out: folder to make, a `pathlib.Path`.
        archive: a `keras.export.ExportArchive`.
        run: the `record.Run`.
        normalization: a `colour.Normalization`.

    Raises:
        InputError: TensorFlow cannot write there.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        archive.write_out(str(partial), verbose=False)
        _describe(partial, run, archive, normalization)
        os.rename(partial, out)
    except tf.errors.OpError as error:  # TensorFlow writes the files and has errors of its own for a full disk
        raise InputError(f"--out={out}: {error.message}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _describe(folder, run, archive, normalization):
    """Leave what the network is, so that a training can start from it or learn from it."""
    asset = folder / "assets.extra" / network.MANIFEST_ASSET
    asset.parent.mkdir()
    described = {
        "flags": run.manifest["flags"],
        "classes": run.manifest["classes"],
        "normalization": {name: getattr(normalization, name).tolist() for name in ("mean", "std")},
        "variables": [variable.path for variable in archive.variables],
    }
    asset.write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))


def _classifier(model, normalization, classes):
    names = tf.constant(classes)

    def classify(pixels):
        probabilities = tf.nn.softmax(model(normalization(pixels), training=False))
        scores, indices = tf.math.top_k(probabilities, k=min(5, len(classes)))
        return {"classes": tf.gather(names, indices), "scores": scores, "probabilities": probabilities}

    return classify
