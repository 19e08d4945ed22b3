"""Make batches of views from encoded examples with tf.data.

The order of examples and the random numbers of each view depend only on (seed, epoch, example): not on the number of
threads or replicas, nor on the step at which a run was resumed. The training step determines the position in the data,
so a resumed run starts there without decoding the examples before it.
"""

import tensorflow as tf

from resnet_tf.data import boxes as annotations
from resnet_tf.data import draws, geometry, processors
from resnet_tf.errors import InputError

AHEAD = 3  # batches that are decoded in advance
plain = tf.autograph.experimental.do_not_convert  # autograph is not needed here and takes 1.5 s per process


def training(
    examples,
    view,
    *,
    batch,
    seed=0,
    first_step=0,
    repeats=1,
    threads=0,
    replica=0,
    replicas=1,
    servers=(),
    held=(),
    alternate=False,
):
    """Make endless batches of random views.

    Each epoch has its own permutation of the examples. With `repeats`, an epoch still has as many views as there are
    examples, but repeats views in a row of each image (repeated augmentation, Hoffer et al. 2020).

    Args:
        examples: an `examples.Examples`.
        view: a `geometry.View`, or for masks or objects an `annotated_views.MaskedView` or `BoxedView`.
        batch: number of examples in a global batch.
        seed: seed of the run.
        first_step: index of the first global batch.
        repeats: number of views of each image in a row.
        threads: number of decoding threads; 0 for one per core.
        replica: index of the replica, whose part of each global batch is returned.
        replicas: number of replicas.
        servers: addresses, host:port, of `data_server` processes that decode. Of n servers, the first one makes the
            batches 0, n, 2n ..., so order and views do not depend on the servers. () decodes in this process.
        held: height and width of all images if the device holds them decoded, else (). Then nothing is decoded here,
            and a batch says which pixels of the held images its views are made of.
        alternate: whether each image is mirrored in every other epoch, instead of at random; see `draws.alternating`.

    Returns:
        Dataset of {"pixels": uint8 [n, size, size, 3], "labels": int32 [n], "keys": int64 [n]} with n = batch /
        replicas. Labels of masks are uint8 [n, size, size], of objects float32 [n, most, 6]. For held images,
        "examples", int32 [n], "rows" and "columns", float32 [n, size], replace "pixels"; see `resident.sampled`.

    Raises:
        InputError: `servers` is set and only Pillow reads some of the images.
    """
    count, part = len(examples), batch // replicas
    if servers and examples.needs_python:
        raise InputError(
            "--data_service: some images need Pillow, which data servers do not have: convert them to JPEGs with "
            "resnet_tf.prepare"
        )

    @plain
    def draw(step):
        position = step * batch + replica * part + tf.range(part, dtype=tf.int64)
        epoch, inside = position // count, position % count
        example = shuffled(inside // repeats, seed, epoch, count)
        return example, *drawn(seed, epoch, example * repeats + inside % repeats, alternate)

    if held:
        return _located(tf.data.Dataset.range(first_step, tf.int64.max), draw, view, held, examples.labels, threads)
    read, annotation = reader(examples), _annotation_reader(examples)

    @plain
    def see(example, key, numbers):
        data, box, label = read(example)
        pixels, label = view(data, annotation(example), numbers) if annotation else (view(data, numbers, box), label)
        return {"pixels": pixels, "labels": label, "keys": key}

    def batches_of(number, stride):
        steps = tf.data.Dataset.range(first_step + number, tf.int64.max, stride)
        return _batched(steps.map(draw).unbatch(), see, part, threads, replicas)

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


def _located(steps, draw, view, sides, labels, threads):
    """Return a dataset of the positions of views in held images; see `training`."""
    labels = tf.constant(labels)

    @plain
    def locate(step):
        example, keys, numbers = draw(step)
        rows, columns = tf.vectorized_map(lambda numbers: view.lines(*sides, numbers), numbers)
        example = tf.cast(example, tf.int32)
        views = {"examples": example, "rows": rows, "columns": columns}
        return views | {"labels": tf.gather(labels, example), "keys": keys}

    views = steps.map(locate, num_parallel_calls=2, deterministic=True).prefetch(AHEAD)
    return views.with_options(processors.dataset_options(threads or processors.count()))


def drawn(seed: int, epoch: tf.Tensor, position: tf.Tensor, alternate: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the keys of some views, int64 [n], and the random numbers of their geometry, float32 [n, geometry.DRAWS].

    Args:
        seed: seed of the run.
        epoch: int64 [n].
        position: int64 [n], the index of the example times `repeats` plus the index of its view.
        alternate: see `training`.
    """
    keys = draws.keys(seed, epoch, position)
    numbers = draws.uniform(keys, draws.Stream.GEOMETRY, geometry.DRAWS)
    if not alternate:
        return keys, numbers
    mirrored = draws.alternating(seed, epoch, position)[:, None]
    return keys, tf.concat([numbers[:, : geometry.MIRROR], mirrored, numbers[:, geometry.MIRROR + 1 :]], axis=1)


def shuffled(index: tf.Tensor, seed: int, epoch: tf.Tensor, count: int) -> tf.Tensor:
    """Permute indices by the permutation of their epoch, without computing the rest of the permutation.

    Args:
        index: int64 [n], below `count`.
        seed: seed of the run.
        epoch: int64 [n].
        count: number of examples.

    Returns:
        int64 [n], below `count`.
    """
    seeds = tf.stack([tf.fill(tf.shape(epoch), tf.constant(seed, tf.int64)), epoch, tf.zeros_like(epoch)], axis=1)
    # tf.random.experimental.index_shuffle takes one seed; the operation behind it takes a seed for each index.
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=seeds, max_index=tf.constant(count - 1, tf.int64), rounds=4)


def testing(examples, view, *, batch, threads=0, replica=0, replicas=1):
    """Make batches of every example once and in order; the last batch is padded.

    Args:
        examples: an `examples.Examples`.
        view: function(scalar string, int32 [4] box or None) -> uint8 [..., size, size, 3].
        batch: number of examples in a global batch.
        threads: number of decoding threads; 0 for one per core.
        replica: index of the replica, whose part of each global batch is returned.
        replicas: number of replicas.

    Returns:
        Dataset of ceil(len(examples) / batch) x {"pixels": uint8 [n, ..., size, size, 3], "labels": int32 [n]} with
        n = batch / replicas; the label of padding is -1.
    """
    count, part = len(examples), batch // replicas

    @plain
    def locate(step):
        return step * batch + replica * part + tf.range(part, dtype=tf.int64)

    read = reader(examples)

    @plain
    def see(position):
        data, box, label = read(tf.minimum(position, count - 1))
        return {"pixels": view(data, box), "labels": tf.where(position < count, label, -1)}

    steps = tf.data.Dataset.range(-(-count // batch))
    return _batched(steps.map(locate).unbatch(), see, part, threads, replicas)


def reader(examples):
    """Return function(int64 scalar) -> encoded image, its box or None, label."""
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
    """Return function(int64 scalar) -> labels of the pixels, or rows of the objects; None if there are neither."""
    if examples.objects is not None:
        return examples.objects.reader()
    if examples.masks is None:
        return None
    read, image = examples.masks.reader(), tf.constant(examples.image)
    return lambda index: read(image[index])


def _batched(positions, see, part, threads, replicas):
    threads = threads or processors.count()
    parallel = max(1, threads // replicas)
    views = positions.map(see, num_parallel_calls=parallel, deterministic=True)
    return views.batch(part, drop_remainder=True).prefetch(AHEAD).with_options(processors.dataset_options(threads))
