"""The state of a training as variables on every replica: read before a step, written after it."""

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.errors import InputError


class State:
    """The content of a checkpoint as variables, one copy on each replica, and the weights of a teacher.

    Create it inside `strategy.scope()`.

    Attributes:
        variables: {name: variable} of weights, moving statistics, their moving averages, optimizer slots, the step, and
            the scalars of schedule and loss scale.
        weights: {path: trainable variable}.
        statistics: {path: variable that is not trained}.
    """

    def __init__(self, strategy: tf.distribute.Strategy, model: keras.Model, recipe=None):
        """Create the variables of the network, and those of a `recipe.Recipe` if given."""
        self._strategy = strategy
        self._replicas = len(strategy.extended.worker_devices)  # on this machine
        self.weights = {variable.path: variable.value for variable in model.trainable_variables}
        self.statistics = {variable.path: variable.value for variable in model.non_trainable_variables}
        self._scalars = {"step": _scalar(0, tf.int64), "halted": _scalar(0.0)}
        self._slots, self._averages = {}, {}
        self._teacher = recipe.teacher.variables if recipe and recipe.teacher else {}
        if recipe:
            self._slots = {
                slot: {path: _copy(tf.zeros(weight.shape, weight.dtype)) for path, weight in self.weights.items()}
                for slot in recipe.optimizer.slots
            }
            for part in (recipe.schedule, recipe.loss_scale):
                if part is not None:
                    self._scalars |= {name: _scalar(value) for name, value in part.initial_state().items()}
            if recipe.ema:
                network = self.weights | self.statistics
                self._averages = {path: _copy(variable) for path, variable in network.items()}
        self.variables = {f"model/{path}": variable for path, variable in (self.weights | self.statistics).items()}
        self.variables |= {f"ema/{path}": variable for path, variable in self._averages.items()}
        for slot, variables in self._slots.items():
            self.variables |= {f"{slot}/{path}": variable for path, variable in variables.items()}
        self.variables |= {f"state/{name}": variable for name, variable in self._scalars.items()}

    # --- Tensors within a compiled program ---------------------------------------------------------------------------

    def local(self, variable, replica: int):
        """Return the copy of a variable on a replica of this machine, counted from 0."""
        return self._strategy.experimental_local_results(variable)[replica]

    def read(self, replica: int) -> dict:
        """Return the input of a step: {group: {path: tensor}, "slots": {slot: {path: tensor}}, "teacher": tensors}."""
        state = {group: self._values(variables, replica) for group, variables in self._groups().items()}
        state["slots"] = {slot: self._values(variables, replica) for slot, variables in self._slots.items()}
        return state | {"teacher": list(self._values(self._teacher, replica).values())}

    def read_network(self, replica: int, ema: bool) -> list:
        """Return weights and statistics, two lists of tensors; their moving averages if `ema`."""
        groups = (self.weights, self.statistics)
        if ema:
            groups = [{path: self._averages[path] for path in variables} for variables in groups]
        return [list(self._values(variables, replica).values()) for variables in groups]

    def write(self, replica: int, state: dict) -> None:
        """Assign a state of `read` to the variables."""

        def write(variables, values):
            for name, value in values.items():
                self.local(variables[name], replica).assign(value, read_value=False)

        for group, variables in self._groups().items():
            write(variables, state[group])
        for slot, variables in self._slots.items():
            write(variables, state["slots"][slot])

    def _groups(self):
        groups = {"weights": self.weights, "statistics": self.statistics}
        return groups | {"scalars": self._scalars, "averages": self._averages}

    def _values(self, variables, replica):
        return {name: self.local(variable, replica).read_value() for name, variable in variables.items()}

    # --- Arrays on the host ------------------------------------------------------------------------------------------

    def get(self, name: str) -> np.ndarray:
        """Return a variable as a NumPy array, after waiting for the device."""
        return self.local(self.variables[name], 0).numpy()

    def get_all(self) -> dict[str, np.ndarray]:
        """Return all variables as NumPy arrays, {name: array}, after waiting for the device."""
        return {name: self.get(name) for name in self.variables}

    def set(self, values: dict) -> None:
        """Assign {name: array or number} on every replica."""
        for name, value in values.items():
            for replica in range(self._replicas):
                self.local(self.variables[name], replica).assign(value)

    def set_all(self, values: dict) -> None:
        """Assign a complete state {name: array} on every replica.

        Raises:
            InputError: an array is missing or has another shape; nothing is changed.
        """
        for name, variable in self.variables.items():
            if name not in values or values[name].shape != tuple(variable.shape):
                stored = list(values[name].shape) if name in values else "missing"
                raise InputError(f"checkpoint: {name} is {stored}, not {list(variable.shape)}: of another network")
        self.set({name: values[name] for name in self.variables})

    def reset_averages(self) -> None:
        """Set the moving averages to the current weights and statistics."""
        averages = [name for name in self.variables if name.startswith("ema/")]
        self.set({name: self.get(name.replace("ema/", "model/", 1)) for name in averages})


def _scalar(value, dtype=tf.float32):
    return tf.Variable(value, dtype=dtype, trainable=False)


def _copy(variable):
    return tf.Variable(variable, trainable=False)
