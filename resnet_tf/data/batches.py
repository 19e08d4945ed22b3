"""Encoded examples in, batches of views out, by tf.data.

Which example stands where, and every number its view is drawn from, is a function of (seed, epoch,
example) alone: not of threads, of replicas, or of where a run was resumed. A position in the data is the
step, so that a resume starts there and decodes nothing of what it skips.
"""

import tensorflow as tf

from resnet_tf.data import augmentation as augmentations
from resnet_tf.data import boxes as annotations
from resnet_tf.data import draws, geometry, processors
from resnet_tf.errors import InputError

AHEAD = 3  # batches that wait, decoded
_plain = tf.autograph.experimental.do_not_convert  # nothing here needs what takes 1.5 s of each process


def training(
    examples, view, *, batch, seed=0, first_step=0, repeats=1, threads=0, replica=0, replicas=1, servers=(), held=()
):
    """Endless batches of random views.

    Each epoch is a permutation of its own. With `repeats` an epoch has as many views, of as many fewer
    images: those of one image stand side by side (repeated augmentation, Hoffer et al. 2020).

    Args:
        examples: an `examples.Examples`.
        view: a `geometry.View`; a `geometry.MaskedView` for examples with masks, a `geometry.BoxedView` for those
            with objects.
        batch: examples of a global batch.
        seed: of the run.
        first_step: where to begin, in global batches.
        repeats: views of each image that an epoch has room for.
        threads: that decode; 0 for one for each core.
        replica: whose part of each global batch is wanted, from 0.
        replicas: into how many parts it is cut.
        servers: addresses, host:port, of `data_server` processes that decode: the first one's are batches 0, n, 2n ...
            of n servers, so that order and views do not depend on them; () to decode here.
        held: height and width of all images, which the device holds; () for images that are decoded. Nothing is
            decoded then, and a batch says where its views lie in them.

    Returns:
        Dataset of {"pixels": uint8 [n, size, size, 3], "labels": int32 [n] or, of masks, uint8 [n, size, size], of
        objects float32 [n, most, 6], "keys": int64 [n]} with n = batch / replicas; of held images "examples", int32
        [n], "rows" and "columns", float32 [n, size], in the place of "pixels": see `resident.sampled`.

    Raises:
        InputError: servers shall decode images that only Pillow reads.
    """
    count, part = len(examples), batch // replicas
    if servers and examples.needs_python:
        raise InputError(
            "--data_service: Pillow, which reads some of the images, is not on the data servers: let "
            "resnet_tf.prepare make JPEGs of them"
        )

    @_plain
    def place(step):
        position = step * batch + replica * part + tf.range(part, dtype=tf.int64)
        epoch, inside = position // count, position % count
        example = shuffled(inside // repeats, seed, epoch, count)
        return example, *drawn(seed, epoch, example * repeats + inside % repeats)

    if held:
        labels = tf.constant(examples.labels)

        @_plain
        def look(step):
            example, keys, numbers = place(step)
            rows, columns = tf.vectorized_map(lambda numbers: view.lines(*held, numbers), numbers)
            example = tf.cast(example, tf.int32)
            found = {"examples": example, "rows": rows, "columns": columns}
            return found | {"labels": tf.gather(labels, example), "keys": keys}

        steps = tf.data.Dataset.range(first_step, tf.int64.max)
        return steps.map(look, num_parallel_calls=2, deterministic=True).prefetch(AHEAD).with_options(_options(threads))

    read, annotation = _reader(examples), _annotation_reader(examples)

    @_plain
    def see(example, key, numbers):
        data, box, label = read(example)
        pixels, label = view(data, annotation(example), numbers) if annotation else (view(data, numbers, box), label)
        return {"pixels": pixels, "labels": label, "keys": key}

    def batches_of(number, stride):
        steps = tf.data.Dataset.range(first_step + number, tf.int64.max, stride)
        return _batched(steps.map(place).unbatch(), see, part, threads, replicas)

    if not servers:
        return batches_of(0, 1)
    served = [
        batches_of(number, len(servers)).apply(
            tf.data.experimental.service.distribute(tf.data.experimental.service.ShardingPolicy.OFF, f"grpc://{server}")
        )
        for number, server in enumerate(servers)
    ]
    turns = tf.data.Dataset.range(len(servers)).repeat()
    return tf.data.Dataset.choose_from_datasets(served, turns).prefetch(AHEAD)


def drawn(seed, epoch, position):
    """What a view is made from.

    Args:
        seed: of the run, a Python integer.
        epoch: int64 [n].
        position: int64 [n], the example times `repeats`, and which of its views it is.

    Returns:
        Its key, int64 [n], and the numbers that its geometry is drawn from, float32 [n, geometry.DRAWS].
    """
    keys = draws.keys(seed, epoch, position)
    return keys, draws.uniform(keys, draws.Stream.GEOMETRY, geometry.DRAWS)


def shuffled(index, seed, epoch, count):
    """Where an epoch's permutation of `count` examples puts an index, computed without the others.

    Args:
        index: int64 [n], below `count`.
        seed: of the run, a Python integer.
        epoch: int64 [n].
        count: of the examples, a Python integer.

    Returns:
        int64 [n], below `count`.
    """
    seeds = tf.stack([tf.fill(tf.shape(epoch), tf.constant(seed, tf.int64)), epoch, tf.zeros_like(epoch)], axis=1)
    # tf.random.experimental.index_shuffle does this for one seed; the operation takes one for each index.
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=seeds, max_index=tf.constant(count - 1, tf.int64), rounds=4)


def testing(examples, view, *, batch, threads=0, replica=0, replicas=1):
    """Every example once and in order, the last batches filled up.

    Args:
        examples: an `examples.Examples`.
        view: function(scalar string, int32 [4] box or None) -> uint8 [..., size, size, 3].
        batch: examples of a global batch.
        threads: that decode; 0 for one for each core.
        replica: whose part of each global batch is wanted, from 0.
        replicas: into how many parts it is cut.

    Returns:
        Dataset of ceil(len(examples) / batch) x {"pixels": uint8 [n, ..., size, size, 3], "labels": int32 [n]} with
        n = batch / replicas; the label of what fills up is -1.
    """
    count, part = len(examples), batch // replicas

    @_plain
    def place(step):
        return step * batch + replica * part + tf.range(part, dtype=tf.int64)

    read = _reader(examples)

    @_plain
    def see(position):
        data, box, label = read(tf.minimum(position, count - 1))
        return {"pixels": view(data, box), "labels": tf.where(position < count, label, -1)}

    steps = tf.data.Dataset.range(-(-count // batch))
    return _batched(steps.map(place).unbatch(), see, part, threads, replicas)


def pipeline(source, view, *, batch, split="train", augmentation=None, normalization=None, seed=0, first_step=0):
    """Ready batches for `keras.Model.fit`, colour and mixing included, all on the host.

    `model.fit(pipeline(source, view, batch=256), steps_per_epoch=len(source.splits["train"]) // 256, epochs=90)`.
    The command `train` is faster: it leaves colour and mixing to the device.

    Args:
        source: what `sources.index` returned.
        view: a `geometry.View`.
        batch: examples of a batch.
        split: of the source.
        augmentation: an `augmentation.Augmentation`; None for none.
        normalization: a `colour.Normalization`; None for images in [0, 255].
        seed: of order and views.
        first_step: where to begin, in batches.

    Returns:
        Endless dataset of (float32 [batch, size, size, 3], float32 [batch, classes]).
    """
    augmentation = augmentation or augmentations.Augmentation()

    @_plain
    def finish(views):
        targets = tf.one_hot(views["labels"], len(source.classes))
        return augmentation.finish(views["pixels"], targets, views["keys"], normalization)

    views = training(source.splits[split], view, batch=batch, seed=seed, first_step=first_step)
    return views.map(finish, num_parallel_calls=2).prefetch(1)


def _reader(examples):
    """function(int64 scalar) -> encoded image, its box or None, label."""
    read, image, labels = examples.reader(), tf.constant(examples.image), tf.constant(examples.labels)
    boxes = None if examples.boxes is None else tf.constant(examples.boxes)
    sides = None if examples.sides is None else tf.constant(examples.sides)

    def read_example(index):
        data = read(image[index])
        if sides is not None:
            data = annotations.checked(data, sides[index])
        return data, None if boxes is None else boxes[index], labels[index]

    return read_example


def _annotation_reader(examples):
    """function(int64 scalar) -> labels of the pixels, or rows of the objects; None where there are neither."""
    if examples.objects is not None:
        return examples.objects.reader()
    if examples.masks is None:
        return None
    read, image = examples.masks.reader(), tf.constant(examples.image)
    return lambda index: read(image[index])


def _batched(places, see, part, threads, replicas):
    threads = threads or processors.count()
    parallel = max(1, threads // replicas)
    views = places.map(see, num_parallel_calls=parallel, deterministic=True)
    return views.batch(part, drop_remainder=True).prefetch(AHEAD).with_options(_options(threads))


def _options(threads):
    options = tf.data.Options()
    # TensorFlow 2.21 may wait for the tuning thread when an iterator ends, for as long as the iterator has lived.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads or processors.count()
    options.threading.max_intra_op_parallelism = 1  # images are many; one thread each is the most efficient
    return options
