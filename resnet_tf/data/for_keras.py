"""Batches for `keras.Model.fit`, `evaluate` and `predict`, with all augmentation on the host."""

import functools

import tensorflow as tf

from resnet_tf.data import augmentation as augmentations
from resnet_tf.data import batches, colour, geometry, images, processors, resident, resizing
from resnet_tf.data.splits import ANY_SPLIT_NAMES, Source, Split
from resnet_tf.errors import InputError

_plain = batches.plain
_LABELS = ("one_hot", "int")


def pipeline(
    source: Source,
    view: geometry.View | resident.PadCrop | int | None = None,
    *,
    batch: int,
    split: str = "",
    training: bool = True,
    augmentation: augmentations.Augmentation | None = None,
    normalization=None,
    normalized: bool = False,
    labels: str = "one_hot",
    resize: int = 0,
    interpolation: str = "",
    repeat: bool = True,
    seed: int = 0,
    first_step: int = 0,
) -> tf.data.Dataset:
    """Make batches for `keras.Model.fit`, with all augmentation on the host.

        source = data.index("folder", "flowers", validation_share=0.2)
        train = data.pipeline(source, data.View("random_resized_crop", 224), batch=32, repeat=False)
        held_out = data.pipeline(source, 224, batch=32, resize=256, training=False)
        model.fit(train, validation_data=held_out, epochs=10)  # train.class_names has the names

    The command `train` is faster, since it augments colours and mixes images on the device.

    Args:
        source: a `Source` of `index` or `load`.
        view: in training a `View` of encoded images, of `index`; images in memory, of `load`, have a `PadCrop`, by
            default of 4 pixels and mirrored. Otherwise the side in pixels of the central crop, or a `View` of this
            `size`; None for images in memory as they are.
        batch: number of examples in a batch.
        split: "train", "val" (or "validation") or "test". "" for train in training, otherwise for validation or,
            without one, test.
        training: whether to make random views in random order. False: every example once and in order, its shorter
            side scaled to `resize` and the central square cropped, as in evaluation; the last batch may be smaller.
        augmentation: in training an `Augmentation`; None for no augmentation besides the view.
        normalization: function of a batch of pixels, such as a `colour.Normalization` or the layer of
            `resnet_tf.preprocessing_of(...)`; None for images in [0, 255].
        normalized: whether to normalise by ImageNet's mean and deviation, `colour.IMAGENET`, if no other
            `normalization` is given.
        labels: "one_hot", or "int" for the index into the class names, for a sparse loss.
        resize: shorter side in pixels before the central crop; 0 for the side of the crop.
        interpolation: how the test view scales: "bilinear" or "bicubic" as torchvision and timm do on images of Pillow,
            "" as `images.resize_center` by default; what `resnet_tf.preprocessing_of(...)` says of published weights.
        repeat: in training, whether the batches are endless; `fit` then needs `steps_per_epoch`. False: each iteration
            of the dataset is one epoch of full batches with an order and views of its own, and `fit` knows its steps.
        seed: seed of the order and of all random numbers.
        first_step: index of the first of endless batches.

    Returns:
        Dataset of (float32 [batch, size, size, 3], float32 [batch, classes] or int32 [batch]). Its cardinality is the
        number of batches, or infinite. It has two attributes: `class_names`, as that of
        `keras.utils.image_dataset_from_directory`, and `steps_per_epoch`, its batches in an epoch.

    Raises:
        InputError: no such split, a view or option that does not fit, or a batch larger than the training split.
    """
    examples, view = _checked(source, split, view, batch, training, labels, resize, augmentation)
    normalization = normalization or (colour.IMAGENET if normalized else None)
    one_hot = functools.partial(tf.one_hot, depth=len(source.classes))
    if training:
        augmentation = augmentation or augmentations.Augmentation()
        crop = view if isinstance(view, resident.PadCrop) else None

        @_plain
        def finish(views):
            targets = one_hot(views["labels"])
            inputs, targets = augmentation.finish(views["pixels"], targets, views["keys"], normalization, crop)
            return inputs, targets if labels == "one_hot" else views["labels"]

        views = _training(examples, view, batch, seed, first_step, repeat)
    else:

        @_plain
        def finish(views):
            inputs = normalization(views["pixels"]) if normalization else tf.cast(views["pixels"], tf.float32)
            return inputs, one_hot(views["labels"]) if labels == "one_hot" else views["labels"]

        if interpolation not in ("", *resizing.INTERPOLATIONS):
            raise InputError(f"interpolation={interpolation}: not one of {', '.join(resizing.INTERPOLATIONS)}")
        views = _testing(examples, view, resize, interpolation).batch(batch)
    if not getattr(normalization, "built", True):  # a Keras layer makes its tensors here, not within a graph of tf.data
        normalization(tf.zeros([1, *views.element_spec["pixels"].shape[1:]]))
    dataset = views.map(finish, num_parallel_calls=2).prefetch(1).with_options(processors.dataset_options())
    steps = len(examples) // batch if training else -(-len(examples) // batch)
    length = tf.data.INFINITE_CARDINALITY if training and repeat else steps
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
    dataset.class_names, dataset.steps_per_epoch = list(source.classes), steps
    return dataset


def _checked(source, split, view, batch, training, labels, resize, augmentation):
    """Return the examples of a split, and the view or the side of the crop; refuse what does not fit together."""
    if labels not in _LABELS:
        raise InputError(f"labels={labels}: not one of {', '.join(_LABELS)}")
    if batch < 1:
        raise InputError(f"batch={batch}: not a positive number of examples")
    unset = "train" if training else "validation" if "validation" in source.splits else "test"
    name = ANY_SPLIT_NAMES.get(split.lower(), split) if split else unset
    if name not in source.splits:
        raise InputError(f"split={split or unset}: the data have {', '.join(source.splits)}")
    examples = source.splits[name]
    if getattr(examples, "objects", None) is not None or getattr(examples, "masks", None) is not None:
        raise InputError("source: has boxes or masks, whose views Keras' fit cannot train on here; see `resnet_tf.fit`")
    if not training:
        return examples, _side(examples, view, resize, augmentation)
    if resize:
        raise InputError(f"resize={resize} is for training=False; a training view scales by itself")
    if labels == "int" and augmentation and (augmentation.mixup or augmentation.cutmix):
        raise InputError("labels=int: mixup and CutMix mix labels, which needs labels=one_hot")
    if len(examples) < batch:
        raise InputError(f"batch={batch}: the split {name} has {len(examples)} examples")
    if isinstance(examples, Split):
        view = resident.PadCrop(4, True) if view is None else view
        if not isinstance(view, resident.PadCrop):
            raise InputError(f"view={view}: images in memory take a PadCrop; index() has data for {_views()}")
    elif not isinstance(view, geometry.View):
        raise InputError(f"view={view}: training takes a View of {_views()}; training=False a side in pixels")
    return examples, view


def _views():
    return ", ".join(geometry.VIEWS)


def _side(examples, view, resize, augmentation):
    """Return the side of the central crop in pixels; 0 for images in memory as they are."""
    if augmentation is not None:
        raise InputError("augmentation is for training=True; training=False shows every image as evaluation does")
    side = view.size if isinstance(view, geometry.View) else view
    if isinstance(examples, Split) and (side is None or isinstance(side, resident.PadCrop)):
        side = 0
    elif not isinstance(side, int) or side < 1:
        raise InputError(f"view={view}: training=False takes the side of the central crop in pixels, or a View")
    if resize and not side:
        raise InputError(f"resize={resize}: is not used without a view; images in memory are taken as they are")
    if resize and resize < side:
        raise InputError(f"resize={resize}: less than the crop of {side} pixels")
    return side


def _testing(examples, side, resize, interpolation):
    """Return a dataset of the test view of every example in order, without batches."""
    if isinstance(examples, Split):
        pixels, labels = tf.constant(examples.images), tf.constant(examples.labels)

        @_plain
        def see(index):
            image = images.resize_center(pixels[index], side, resize, interpolation) if side else pixels[index]
            return {"pixels": image, "labels": labels[index]}

    else:
        read = batches.reader(examples)

        @_plain
        def see(index):
            data, box, label = read(index)
            return {"pixels": geometry.center(data, side, resize, box, interpolation), "labels": label}

    return tf.data.Dataset.range(len(examples)).map(see, num_parallel_calls=processors.count(), deterministic=True)


def _training(examples, view, batch, seed, first_step, repeat):
    """Return a dataset of full batches of random views: {"pixels", "labels", "keys"}; see `batches.training`."""
    is_held = isinstance(examples, Split)
    if repeat and not is_held:
        return batches.training(examples, view, batch=batch, seed=seed, first_step=first_step)
    count = len(examples)
    if repeat:
        places = tf.data.Dataset.range(first_step * batch, tf.int64.max)
        places = places.map(_plain(lambda position: (position // count, position % count)))
    else:
        order = tf.data.Dataset.range(count // batch * batch)
        # The epoch is a number that each iteration of the dataset draws anew; order and views depend on it alone.
        epoch = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).take(1)
        places = epoch.flat_map(
            _plain(lambda number: tf.data.Dataset.zip((tf.data.Dataset.from_tensors(number).repeat(), order)))
        )
    read = None if is_held else batches.reader(examples)
    pixels, labels = (tf.constant(examples.images), tf.constant(examples.labels)) if is_held else (None, None)

    @_plain
    def see(epoch, place):
        (example,) = tf.unstack(batches.shuffled(place[None], seed, epoch[None], count), 1)
        keys, numbers = batches.drawn(seed, epoch[None], example[None])
        if is_held:
            image, label = pixels[example], labels[example]
        else:
            data, box, label = read(example)
            image = view(data, numbers[0], box)
        return {"pixels": image, "labels": label, "keys": keys[0]}

    seen = places.map(see, num_parallel_calls=processors.count(), deterministic=True)
    return seen.batch(batch, drop_remainder=True).prefetch(batches.AHEAD)
