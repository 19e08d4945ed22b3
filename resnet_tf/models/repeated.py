"""Run the equal blocks of a stage as one loop over their stacked weights, so that a deep network compiles quickly.

The blocks of a stage after its first differ in nothing but their weights. A compiler that sees a loop compiles those of
one turn, however many turns there are. A turn is several blocks, since each costs copies of what the way back needs.
Layers, names and weights of the network stay as they are; only the way in which a step computes them changes, up to
rounding.
"""

import itertools
import json
import re

import keras
import tensorflow as tf

_BLOCK = re.compile(r"stage\d+_block\d+_")
LEAST = 50  # equal blocks that make a loop: those of the networks of 1,001 and 1,202 layers
A_TURN = range(10, 21)  # blocks of one turn of a loop


class Repeated:
    """A network that computes equal blocks in loops. It has what a training step uses of a `keras.Model`.

        network = Repeated(resnet_tf.create_model("cifar_resnet110_v1"))
        logits, statistics = network.stateless_call(weights, statistics, images, training=True)

    Attributes:
        inputs: of the network.
        outputs: of the network.
        loops: number of turns of each loop, in the order of the network; empty if no stage has enough equal blocks.
    """

    def __init__(self, model: keras.Model):
        """Find the equal blocks; `model` is a network of `create_model`, a chain of blocks."""
        self.inputs, self.outputs = model.inputs, model.outputs
        self._model = model
        self._parts, self.loops = [], []
        start = model.inputs[0]
        for first, last, ends in _runs(model):
            self._parts.append((self._part(start, first), None))
            turns = [self._part(begin, end) for begin, end in zip([first, *ends], ends, strict=False)]
            self._parts.append((turns[0], turns))
            self.loops.append(len(turns))
            start = last
        self._parts.append((self._part(start, model.outputs[0]), None))

    def _part(self, start, end):
        """Return (a model from one tensor to another, indices of its weights, indices of its statistics)."""
        part = keras.Model(start, end)
        weights = {id(variable): index for index, variable in enumerate(self._model.trainable_variables)}
        statistics = {id(variable): index for index, variable in enumerate(self._model.non_trainable_variables)}
        return (
            part,
            [weights[id(variable)] for variable in part.trainable_variables],
            [statistics[id(variable)] for variable in part.non_trainable_variables],
        )

    def stateless_call(self, weights: list, statistics: list, inputs, training: bool = False):
        """Compute the network as `keras.Model.stateless_call` does; same arguments and results."""
        values, statistics = inputs, list(statistics)
        for (part, its_weights, its_statistics), turns in self._parts:
            if turns:
                values = _loop(turns, weights, statistics, values, training)
                continue
            values, new = part.stateless_call(
                [weights[index] for index in its_weights], [statistics[index] for index in its_statistics], values,
                training=training,
            )  # fmt: skip
            for index, value in zip(its_statistics, new, strict=True):
                statistics[index] = value
        return values, statistics


def of(model: keras.Model):
    """Return `Repeated(model)` where a stage has enough equal blocks, else the model itself."""
    if len(model.inputs) != 1 or len(model.layers) < LEAST or not any(_runs(model)):
        return model
    return Repeated(model)


def _loop(turns, weights, statistics, values, training):
    """Compute turns one after another in a loop; `statistics` are replaced in their list."""
    count, block = len(turns), turns[0][0]
    stacked = [tf.stack([weights[index] for index in alike]) for alike in zip(*(t[1] for t in turns), strict=True)]
    places = list(zip(*(t[2] for t in turns), strict=True))
    moving = [tf.stack([statistics[index] for index in alike]) for alike in places]
    shape = values.shape

    def body(index, values, moved):
        outputs, new = block.stateless_call(
            [stack[index] for stack in stacked], [stack[index] for stack in moving], values, training=training
        )
        moved = [tf.tensor_scatter_nd_update(all_, [[index]], one[None]) for all_, one in zip(moved, new, strict=True)]
        return index + 1, tf.ensure_shape(outputs, shape), moved

    loop = [tf.constant(0), values, moving]
    _, values, moved = tf.while_loop(lambda index, *_: index < count, body, loop, maximum_iterations=count)
    for alike, stack in zip(places, moved, strict=True):
        for index, value in zip(alike, tf.unstack(stack), strict=True):
            statistics[index] = value
    return values


def _runs(model):
    """Yield (input, output, [outputs of each turn]) of each run of at least `LEAST` equal blocks of a stage.

    Blocks that are left over from equal turns stay before the loop.
    """
    ends, kinds = {}, {}
    for layer in model.layers:
        if match := _BLOCK.match(layer.name):
            ends[match[0]] = layer.output  # of its last layer, in the order of the graph
            kinds.setdefault(match[0], []).append(_kind(layer))
    blocks = list(ends)
    runs = itertools.groupby(range(1, len(blocks)), lambda index: (blocks[index].split("_")[0], kinds[blocks[index]]))
    for _, run in runs:
        first, *_ = run = list(run)
        outputs = [ends[blocks[index]] for index in run]
        if (count := len(outputs)) >= LEAST:
            turn = blocks_a_turn(count)
            turns = outputs[turn + count % turn - 1 :: turn]
            yield ends[blocks[first + count % turn - 1]], outputs[-1], turns


def blocks_a_turn(count: int) -> int:
    """Return how many of `count` equal blocks make a turn, so that the program has few: those of one and the rest."""
    return min(A_TURN, key=lambda length: length + count % length)


def _kind(layer):
    """Return all that tells how a layer computes, without its name and how its weights start."""
    config = {key: value for key, value in layer.get_config().items() if key != "name" and "initializer" not in key}
    return type(layer).__name__, json.dumps(config, sort_keys=True, default=str)
