"""A run of a task -> a SavedModel that answers what its evaluation answered; of classification see `serving/`.

Signatures:

    serving_default  image_bytes: string [], a JPEG, PNG, BMP, GIF or WebP
    images           images: uint8 [batch, height, width, 3] of any size, all of one

Encoded images are turned upright as their orientation tags say, where the run's --exif is apply; masks and boxes are of
the upright image. Both prepare images as evaluation does. Of segmentation they return

    masks    uint8 [batch, height, width], of the images' size: an index into `classes` for each pixel
    classes  string [classes]: their names

and of detection, falling by score,

    boxes    float32 [k, 4], top, left, bottom, right in pixels of the image
    scores   float32 [k], in (0, 1]
    labels   int32 [k]: indices into `classes`
    classes  string [classes]: their names

where `images` returns [batch, detections, ...], filled up by rows whose score is 0.
"""

import keras
import tensorflow as tf
import yaml

from resnet_tf.config import TASKS
from resnet_tf.data import images, orientation
from resnet_tf.errors import InputError
from resnet_tf.runs import network, restore, versions
from resnet_tf.tasks import find


def load(run_folder, weights="raw"):
    """Read a run, its trained network and its normalisation.

    Args:
        run_folder: of a run of any task.
        weights: "raw", "ema" or "best"; see `restore`.

    Returns:
        The `record.Run`; a `keras.Model`; a `colour.Normalization`; steps done.

    Raises:
        InputError: no such run, or one without such weights.
    """
    run, values, normalization = restore.load(run_folder, weights, tuple(TASKS))
    model = find.of(run.config).build(len(run.manifest["classes"]))
    restore.check_weights(run, weights)
    network.assign(model, values, run.checkpoints, "ema/" if weights == "ema" else "model/")
    return run, model, normalization, restore.step_of(values)


def export(section):
    """Write the SavedModel of a run, whole or not at all.

    Args:
        section: a `config.ExportConfig`, of which `run`, `weights`, `out` and `version` are used.

    Returns:
        {"model": folder of the versions, "version": its number, "run": the run's folder, "classes": how many,
        "signatures": their names}.

    Raises:
        InputError: as `load`; or the version exists, or TensorFlow cannot write it.
    """
    version = versions.choose(section.out, section.version)
    run, model, normalization, _ = load(section.run, section.weights)
    classes = run.manifest["classes"]
    answer_one, answer = find.of(run.config).served(model, normalization, classes)
    treated = orientation.treated(run.config.data.exif)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default",
        lambda image_bytes: answer_one(images.decode_tensor(treated(image_bytes))),
        [tf.TensorSpec([], tf.string, name="image_bytes")],
    )
    archive.add_endpoint("images", answer, [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    described = {
        "task": run.config.task,
        "flags": run.manifest["flags"],
        "classes": classes,
        "normalization": {name: getattr(normalization, name).tolist() for name in ("mean", "std")},
    }
    with versions.writing(section.out, version) as folder:
        try:
            archive.write_out(str(folder), verbose=False)
        except tf.errors.OpError as error:  # TensorFlow has errors of its own for a full disk
            raise InputError(f"--out={section.out}: {error.message}") from None
        asset = folder / "assets.extra" / network.MANIFEST_ASSET
        asset.parent.mkdir()
        asset.write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    return {
        "model": section.out,
        "version": version,
        "run": str(run.folder),
        "classes": len(classes),
        "signatures": ["serving_default", "images"],
    }
