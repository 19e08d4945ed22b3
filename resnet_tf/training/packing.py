"""How a state is laid out within a compiled program."""

import dataclasses

import tensorflow as tf


class Packing:
    """A state whose many vectors (gamma, beta, moving statistics) are two long ones, between the steps of a program.

    A GPU then updates all of them by a few kernels instead of by some five for each batch normalisation, each of which
    takes a microsecond or two however little it does.

    Attributes:
        optimizer: of a packed state.
    """

    def __init__(self, weights, statistics, optimizer):
        """Args: variables by path, in their order; the optimizer. Weights that decay or have own rates stay alone."""
        decays = dict(zip(weights, optimizer.decay, strict=True))
        vectors = [
            path for path, weight in weights.items()
            if weight.shape.rank == 1 and not decays[path] and not optimizer.scales
        ]  # fmt: skip
        moving = [path for path, variable in statistics.items() if variable.shape.rank == 1]
        self._packs = {name: paths for name, paths in (("vectors", vectors), ("statistics", moving)) if paths}
        self._weights, self._statistics = list(weights), list(statistics)
        self._sizes = {path: variable.shape[0] for path, variable in (weights | statistics).items()
                       if any(path in paths for paths in self._packs.values())}  # fmt: skip
        left = [path for path in weights if path not in self._sizes]
        decay = (*(decays[path] for path in left), *([False] if vectors else []))
        self.optimizer = dataclasses.replace(optimizer, decay=decay)

    def pack(self, state):
        """A state as `Engine` reads it, packed."""
        packed = {group: self._pack(state[group]) for group in ("weights", "statistics", "averages")}
        return packed | {"slots": {slot: self._pack(values) for slot, values in state["slots"].items()},
                         "scalars": state["scalars"]}  # fmt: skip

    def unpack(self, packed):
        """The state that was packed."""
        state = {group: self._unpack(packed[group]) for group in ("weights", "statistics", "averages")}
        return state | {"slots": {slot: self._unpack(values) for slot, values in packed["slots"].items()},
                        "scalars": packed["scalars"]}  # fmt: skip

    def pack_sums(self, sums):
        """What `_gradients` returns, its lists in the order of a packed state."""
        gradients, statistics = (
            self._pack(dict(zip(paths, sums[name], strict=True)))
            for name, paths in (("gradients", self._weights), ("statistics", self._statistics))
        )
        return sums | {"gradients": list(gradients.values()), "statistics": list(statistics.values())}

    def _pack(self, values):
        packed = {path: value for path, value in values.items() if path not in self._sizes}
        for name, paths in self._packs.items():
            if paths[0] in values:
                packed[name] = tf.concat([values[path] for path in paths], axis=0)
        return packed

    def _unpack(self, packed):
        values = dict(packed)
        for name, paths in self._packs.items():
            if name in values:
                parts = tf.split(values.pop(name), [self._sizes[path] for path in paths])
                values |= dict(zip(paths, parts, strict=True))
        return {path: values[path] for path in (*self._weights, *self._statistics) if path in values}
