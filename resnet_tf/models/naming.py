"""Networks with a name of the user's own, and the name of a network in the table."""

import keras

from resnet_tf.errors import InputError
from resnet_tf.models.architectures import find
from resnet_tf.models.layers import close


@keras.saving.register_keras_serializable("resnet_tf")
class NamedNetwork(keras.Model):
    """A network with a name of the user's own, which remembers its name in the table where Keras saves and loads it.

    Attributes:
        network: name in the table, such as "resnet50_v1d".
    """

    network = ""

    def get_config(self):
        """Arguments of the constructor, and the name in the table."""
        return {**super().get_config(), "network": self.network}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Build the network that `get_config` describes."""
        config = dict(config)
        network = config.pop("network")
        model = super().from_config(config, custom_objects)
        model.network = network
        return model


def split(network: str | None, name: str | None) -> tuple[str, str | None]:
    """Return the name of a network in the table and that of its Keras model, None for the default, from two arguments.

    A `name` alone is that of the network, as before there were two.

    Raises:
        InputError: no network, or a name that no Keras model can have.
    """
    if network is None:
        network, name = name, None
    if not network:
        raise InputError("network: no name is given; resnet_tf.list_models() has all of them")
    if name is not None and (not isinstance(name, str) or not name or "/" in name):
        raise InputError(f"name={name!r}: not a name of a Keras model, a text without /")
    return network, name


def renamed(model: keras.Model, name: str | None, network: str) -> keras.Model:
    """Return a model of the same layers under another name, which remembers its network; or `model` for None."""
    if name in (None, model.name):
        return model
    named = close(find(network), model.input, model.output, name, NamedNetwork)
    named.network = network
    return named


def plain(model: keras.Model) -> keras.Model:
    """Return a model of the same layers without a class of this package, under the name of its network."""
    if not isinstance(model, NamedNetwork):
        return model
    return close(find(network_of(model)), model.input, model.output, network_of(model))


def network_of(model: keras.Model) -> str:
    """Return the name in the table of a built network, which `model.name` is unless the user gave another one.

    >>> network_of(create_model("cifar_resnet8_v1", name="student"))
    'cifar_resnet8_v1'

    Raises:
        InputError: the model is a copy of a named network that `keras.models.clone_model` made, which does not say it.
    """
    if not isinstance(model, NamedNetwork):
        return model.name.removesuffix("_backbone")
    if not model.network:
        raise InputError(
            f"{model.name}: does not say which network it is, as a copy by keras.models.clone_model; set its attribute "
            "network to the name in the table"
        )
    return model.network
