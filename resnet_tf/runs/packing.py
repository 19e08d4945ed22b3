"""The layout of a training state within a compiled program: small tensors packed into long vectors."""

import dataclasses

import tensorflow as tf

SMALL = 2**16  # elements; copying a larger tensor costs more than launching a kernel for it


class Packing:
    """A layout that packs the many small tensors of a state into a few long vectors.

    A GPU then updates all of them by a few kernels, instead of about five kernels for each tensor, each of which takes
    a microsecond or two. Decayed weights, undecayed weights and moving statistics are one vector each.

    Attributes:
        optimizer: optimizer of a packed state.
    """

    def __init__(self, weights, statistics, optimizer, by_shape=False):
        """Choose the tensors to pack: not weights with learning rates of their own or `Muon`'s matrices; only float32.

        `weights` and `statistics` are {path: variable}, in order; `optimizer` is that of the weights. With `by_shape`,
        tensors of one shape are packed and unpacked together, which takes a tenth of the operations where there are
        thousands of them. What that costs in a step was not measured on a GPU, so few networks have it.
        """
        decays = dict(zip(weights, optimizer.decay, strict=True))
        variables = weights | statistics
        self._shapes = {path: variable.shape for path, variable in variables.items()
                        if variable.dtype == tf.float32 and variable.shape.num_elements() <= SMALL}  # fmt: skip
        matrices = {path for path, one in zip(weights, getattr(optimizer, "matrices", ()), strict=False) if one}
        free = [path for path in weights if path in self._shapes and not optimizer.scales and path not in matrices]
        packs = {
            "undecayed": [path for path in free if not decays[path]],
            "decayed": [path for path in free if decays[path] and optimizer.elementwise],
            "statistics": [path for path in statistics if path in self._shapes],
        }
        self._packs = {name: self._runs(paths, by_shape) for name, paths in packs.items() if paths}
        self._packed = {path for runs in self._packs.values() for run in runs for path in run}
        self._weights, self._statistics = list(weights), list(statistics)
        left = [decays[path] for path in weights if path not in self._packed]
        decay = (*left, *(name == "decayed" for name in self._packs if name != "statistics"))
        self.optimizer = dataclasses.replace(optimizer, decay=decay)
        if matrices:
            left = [path in matrices for path in weights if path not in self._packed]
            self.optimizer = dataclasses.replace(self.optimizer, matrices=(*left, *[False] * (len(decay) - len(left))))

    def pack(self, state: dict) -> dict:
        """Return a state of `State.read`, packed."""
        packed = {group: self._pack(state[group]) for group in ("weights", "statistics", "averages")}
        return packed | {"slots": {slot: self._pack(values) for slot, values in state["slots"].items()},
                         "scalars": state["scalars"]}  # fmt: skip

    def unpack(self, packed: dict) -> dict:
        """Return the state that `pack` packed."""
        state = {group: self._unpack(packed[group]) for group in ("weights", "statistics", "averages")}
        return state | {"slots": {slot: self._unpack(values) for slot, values in packed["slots"].items()},
                        "scalars": packed["scalars"]}  # fmt: skip

    def pack_sums(self, sums: dict) -> dict:
        """Return the result of `step.forward_backward` with its lists in the order of a packed state."""
        gradients, statistics = (
            self._pack(dict(zip(paths, sums[name], strict=True)))
            for name, paths in (("gradients", self._weights), ("statistics", self._statistics))
        )
        return sums | {"gradients": list(gradients.values()), "statistics": list(statistics.values())}

    def _runs(self, paths, by_shape):
        """Return lists of paths of one shape each, in the order in which a vector has them."""
        if not by_shape:
            return [[path] for path in paths]
        runs = {}
        for path in paths:
            runs.setdefault(tuple(self._shapes[path]), []).append(path)
        return list(runs.values())

    def _pack(self, values):
        packed = {path: value for path, value in values.items() if path not in self._packed}
        for name, runs in self._packs.items():
            if runs[0][0] in values:
                packed[name] = tf.concat([_flat([values[path] for path in run]) for run in runs], axis=0)
        return packed

    def _unpack(self, packed):
        values = dict(packed)
        for name, runs in self._packs.items():
            if name in values:
                shapes = [self._shapes[run[0]] for run in runs]
                sizes = [len(run) * shape.num_elements() for run, shape in zip(runs, shapes, strict=True)]
                for run, part, shape in zip(runs, tf.split(values.pop(name), sizes), shapes, strict=True):
                    values |= dict(zip(run, _shaped(part, len(run), shape), strict=True))
        return {path: values[path] for path in (*self._weights, *self._statistics) if path in values}


def _flat(tensors):
    """Return tensors of one shape as a vector."""
    values = tf.stack(tensors) if len(tensors) > 1 else tensors[0]
    # Convolution kernels keep cuDNN's order of axes, so that neither they nor their gradients are transposed.
    if tensors[0].shape.rank == 4:
        first = values.shape.rank - 4  # axis of the kernel
        values = tf.transpose(values, [*range(first), first + 3, first, first + 1, first + 2])
    return tf.reshape(values, [-1])


def _shaped(part, count, shape):
    """Return the `count` tensors of a shape that `_flat` made a vector of."""
    many = [count] if count > 1 else []
    if len(shape) == 4:
        first = len(many)
        part = tf.reshape(part, [*many, shape[3], *shape[:3]])
        part = tf.transpose(part, [*range(first), first + 1, first + 2, first + 3, first])
    else:
        part = tf.reshape(part, [*many, *shape])
    return tf.unstack(part) if many else [part]


def flattened(structure) -> tf.Tensor:
    """Return the tensors of a structure as one vector, in the order of `tf.nest.flatten`."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tf.nest.flatten(structure)], axis=0)


def unflattened(vector, structure):
    """Split a vector of `flattened` into tensors shaped like those of a structure."""
    shapes = [tensor.shape for tensor in tf.nest.flatten(structure)]
    parts = tf.split(vector, [shape.num_elements() for shape in shapes])
    parts = [tf.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]
    return tf.nest.pack_sequence_as(structure, parts)
