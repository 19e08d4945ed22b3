"""Classify image files with an exported model."""

import pathlib

import tensorflow as tf

from resnet_tf.data import images
from resnet_tf.errors import InputError
from resnet_tf.serving import versions


def load(folder, signature="serving_default"):
    """Load a signature of an exported model; see `savedmodel`.

    Raises:
        InputError: not a folder with a SavedModel of this project.
    """
    folder = versions.locate(folder)
    if not (folder / "saved_model.pb").is_file():
        raise InputError(f"--model={folder}: no SavedModel is there (saved_model.pb)")
    try:
        model = tf.saved_model.load(str(folder))
        loaded = model.signatures[signature]
    except (OSError, KeyError, tf.errors.OpError, ValueError) as error:
        raise InputError(f"--model={folder}: damaged SavedModel ({error})") from None
    loaded.keep_alive = model  # the signature does not hold its model's variables by itself
    return loaded


def classify_files(signature, paths, batch=32):
    """Classify images in files.

    Args:
        signature: what `load` gave.
        paths: of JPEG, PNG, BMP or GIF files.
        batch: how many at a time.

    Yields:
        For each file in order (path, [(class name, probability), ...], None), best first; or (path,
        [], InputError) where it is no image, and the others go on.
    """
    paths = [pathlib.Path(path) for path in paths]
    for start in range(0, len(paths), batch):
        chosen = paths[start : start + batch]
        contents = [_read(path) for path in chosen]
        good = [content for content in contents if isinstance(content, bytes)]
        answers = iter(())
        if good:
            output = signature(image_bytes=tf.constant(good))
            answers = zip(output["classes"].numpy(), output["scores"].numpy(), strict=True)
        for path, content in zip(chosen, contents, strict=True):
            if isinstance(content, InputError):
                yield path, [], content
                continue
            names, scores = next(answers)
            yield path, [(name.decode(), float(score)) for name, score in zip(names, scores, strict=True)], None


def _read(path):
    """Content of a file that has been seen to decode, or the error."""
    try:
        content = path.read_bytes()
        images.decode(content, str(path))
        return content
    except OSError as error:
        return InputError(f"{path}: {error.strerror}")
    except InputError as error:
        return error
