"""Export a run of segmentation or detection as a SavedModel; `serving.export` exports classification.

Signatures:

    serving_default  image_bytes: string [], a JPEG, PNG, BMP, GIF or WebP
    images           images: uint8 [batch, height, width, 3], any height and width

Both prepare images as evaluation does. If --exif of the run is apply, encoded images are rotated upright, and masks and
boxes are those of the upright image. Segmentation returns

    masks    uint8 [batch, height, width]: an index into `classes` for each pixel of the image
    classes  string [classes]: class names

and detection returns, in order of falling score,

    boxes    float32 [k, 4]: top, left, bottom, right in pixels of the image
    scores   float32 [k], in (0, 1]
    labels   int32 [k]: indices into `classes`
    classes  string [classes]: class names

For detection, `images` returns [batch, detections, ...], padded with rows of score 0.
"""

import keras
import tensorflow as tf
import yaml

from resnet_tf.config import TASKS
from resnet_tf.data import images, orientation
from resnet_tf.errors import InputError
from resnet_tf.runs import network, restore, versions
from resnet_tf.tasks import find


def load(run_folder, weights: str = "") -> tuple:
    """Read a run, its trained network and its normalisation.

    Args:
        run_folder: folder of a run of any task.
        weights: "raw", "ema" or "best"; see `restore.load`.

    Returns:
        The `record.Run`; a `keras.Model`; a `colour.Normalization`; the number of training steps.

    Raises:
        InputError: no such run, or a run without such weights.
    """
    run, values, normalization = restore.load(run_folder, weights, tuple(TASKS))
    model = find.of(run.config).build(len(run.manifest["classes"]))
    restore.assign(model, run, values, weights)
    return run, model, normalization, restore.step_of(values)


def export(section) -> dict:
    """Write the SavedModel of a run as a new version.

    Args:
        section: a `config.ExportConfig`, of which `run`, `weights`, `out` and `version` are used.

    Returns:
        {"model": folder of the versions, "version": number of the new one, "run": run folder, "classes": number of
        classes, "signatures": their names}.

    Raises:
        InputError: see `load`; or the version exists, or TensorFlow cannot write it.
    """
    version = versions.choose(section.out, section.version)
    run, model, normalization, _ = load(section.run, section.weights)
    classes = run.manifest["classes"]
    predict_one, predict = find.of(run.config).served(model, normalization, classes)
    upright = orientation.treated(run.config.data.exif)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default",
        lambda image_bytes: predict_one(images.decode_tensor(upright(image_bytes))),
        [tf.TensorSpec([], tf.string, name="image_bytes")],
    )
    archive.add_endpoint("images", predict, [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    described = {
        "task": run.config.task,
        "flags": run.manifest["flags"],
        "classes": classes,
        "normalization": {name: getattr(normalization, name).tolist() for name in ("mean", "std")},
    }
    with versions.writing(section.out, version) as folder:
        try:
            archive.write_out(str(folder), verbose=False)
        except tf.errors.OpError as error:  # TensorFlow raises its own errors for a full disk
            raise InputError(f"--out={section.out}: {error.message}") from None
        asset = folder / "assets.extra" / network.MANIFEST_ASSET
        asset.parent.mkdir()
        asset.write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    result = {"model": section.out, "version": version, "run": str(run.folder)}
    return result | {"classes": len(classes), "signatures": ["serving_default", "images"]}
