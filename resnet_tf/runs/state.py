"""The state of a training as variables on every replica: read before a step, written after it."""

import tensorflow as tf

from resnet_tf.errors import InputError


class State:
    """All that a checkpoint holds, with a copy on each replica, and the weights of a teacher beside it.

    Make it inside `strategy.scope()`.

    Attributes:
        variables: {name: variable} of weights, moving statistics, their moving averages, optimizer slots, the
            step, and the scalars of schedule and loss scale.
        weights: {path: variable}, trained ones.
        statistics: {path: variable}, those that are not trained.
    """

    def __init__(self, strategy, model, recipe=None):
        """Make the variables.

        Args:
            strategy: a `tf.distribute.Strategy`.
            model: a `keras.Model`.
            recipe: a `recipe.Recipe`; None for the network's variables alone.
        """
        self._strategy = strategy
        self._replicas = len(strategy.extended.worker_devices)  # of this machine
        self.weights = {variable.path: variable.value for variable in model.trainable_variables}
        self.statistics = {variable.path: variable.value for variable in model.non_trainable_variables}
        self._scalars = {"step": _scalar(0, tf.int64), "halted": _scalar(0.0)}
        self._slots, self._averages = {}, {}
        self._teacher = recipe.teacher.variables if recipe and recipe.teacher else {}
        if recipe:
            self._slots = {
                slot: {path: _zeros_like(variable) for path, variable in self.weights.items()}
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

    # --- As tensors, within a program --------------------------------------------------------------------------------

    def local(self, variable, replica):
        """A replica's copy of a variable; replicas of this machine are counted from 0."""
        return self._strategy.experimental_local_results(variable)[replica]

    def read(self, replica):
        """Return the input of a step: {group: {path: tensor}}, {"slots": {slot: ...}} and the teacher's list."""
        state = {group: self._values(variables, replica) for group, variables in self._groups().items()}
        state["slots"] = {slot: self._values(variables, replica) for slot, variables in self._slots.items()}
        return state | {"teacher": list(self._values(self._teacher, replica).values())}

    def read_network(self, replica, ema):
        """Weights and statistics, two lists of tensors: the averaged ones, or as they are."""
        groups = (self.weights, self.statistics)
        if ema:
            groups = [{path: self._averages[path] for path in variables} for variables in groups]
        return [list(self._values(variables, replica).values()) for variables in groups]

    def write(self, replica, state):
        """Give the variables the values of a state as `read` has it."""

        def write(variables, values):
            for name, value in values.items():
                self.local(variables[name], replica).assign(value, read_value=False)

        for group, variables in self._groups().items():
            write(variables, state[group])
        for slot, variables in self._slots.items():
            write(variables, state["slots"][slot])

    def _groups(self):
        return {
            "weights": self.weights, "statistics": self.statistics, "scalars": self._scalars,
            "averages": self._averages,
        }  # fmt: skip

    def _values(self, variables, replica):
        return {name: self.local(variable, replica).read_value() for name, variable in variables.items()}

    # --- As arrays, from outside -------------------------------------------------------------------------------------

    def get(self, name):
        """One part of the state as a NumPy array. Waits for the device."""
        return self.local(self.variables[name], 0).numpy()

    def get_all(self):
        """All of the state as NumPy arrays: {name: array}. Waits for the device."""
        return {name: self.get(name) for name in self.variables}

    def set(self, values):
        """Give every replica a part of the state, {name: array or number}."""
        for name, value in values.items():
            for replica in range(self._replicas):
                self.local(self.variables[name], replica).assign(value)

    def set_all(self, values):
        """Give every replica the state in {name: array}.

        Raises:
            InputError: a part of the state is missing or of another shape; nothing is changed.
        """
        for name, variable in self.variables.items():
            if name not in values or values[name].shape != tuple(variable.shape):
                found = list(values[name].shape) if name in values else "missing"
                raise InputError(f"checkpoint: {name} is {found}, not {list(variable.shape)}: it is of another network")
        self.set({name: values[name] for name in self.variables})

    def reset_averages(self):
        """Let the averaged weights begin where the weights are."""
        averages = [name for name in self.variables if name.startswith("ema/")]
        self.set({name: self.get(name.replace("ema/", "model/", 1)) for name in averages})


def _zeros_like(variable):
    """A variable of its own, of the same shape and type."""
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)


def _scalar(value, dtype=tf.float32):
    return tf.Variable(value, dtype=dtype, trainable=False)


def _copy(variable):
    return tf.Variable(variable, trainable=False)
