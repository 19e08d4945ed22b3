"""What images a network expects: the preprocessing of published weights, as data and as a Keras layer."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.models import published, zoo


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How to make the input of a network of an image: scale, crop the centre, normalise.

        expected = resnet_tf.preprocessing_of("resnet50_v1d")
        print(expected.size, expected.resize, expected.interpolation)  # 224 235 bicubic
        model = keras.Sequential([expected.layer(), resnet_tf.create_model("resnet50_v1d", weights="imagenet")])

    Attributes:
        mean: of red, green and blue in levels of 0 to 255, subtracted from the image; or rows of columns of such threes
            where a mean image is subtracted.
        std: of red, green and blue in the same levels, by which the differences are divided.
        size: side in pixels of the square that the network sees.
        resize: pixels to which the shorter side of an image is scaled before the central square is cropped.
        interpolation: "bilinear" or "bicubic", with antialiasing.
        order: "RGB" or "BGR", the order in which the network takes the channels.
    """

    mean: tuple
    std: tuple[float, ...]
    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"
    order: str = "RGB"

    @property
    def crop(self) -> float:
        """The side of the crop as a share of the shorter side of the scaled image, `crop_pct` in timm."""
        return self.size / self.resize

    def at(self, size: int) -> "Preprocessing":
        """Return this for a crop of another size, which is the same share of the image.

        Raises:
            InputError: a mean image is subtracted, which has one size.
        """
        if size != self.size and np.ndim(self.mean) > 1:
            raise InputError(
                f"image_size={size}: the weights expect images less a mean image of {self.size} pixels, and no others"
            )
        return dataclasses.replace(self, size=size, resize=size * self.resize // self.size)

    def layer(self):
        """Return a Keras layer that normalises images; scaling and cropping are done before it.

            layer = resnet_tf.preprocessing_of("resnet50_v1d").layer()
            inputs = layer(pixels)  # uint8 [batch, 224, 224, 3] -> float32 of the same shape

        Returns:
            A layer from RGB in [0, 255], uint8 or float [batch, height, width, 3], to the input of the network,
            float32 of the same shape. It consists of Keras' own layers, so that models with it load anywhere.
        """
        import keras

        mean = np.asarray(self.mean, np.float32)
        variance = np.broadcast_to(np.square(np.asarray(self.std, np.float32)), mean.shape)
        axis = -1 if mean.ndim == 1 else (1, 2, 3)
        layer = keras.layers.Normalization(axis, mean, variance, dtype="float32", name="normalization")
        if self.order == "RGB":
            return layer
        images = keras.Input((*(mean.shape[:-1] or (None, None)), 3), dtype="float32", name="images")
        return keras.Model(images, keras.ops.flip(layer(images), -1), name="normalization_bgr")


def of_published(name: str, tested: bool = False) -> Preprocessing:
    """Return the preprocessing of published weights.

        of_published("resnet50_v1d") == of_published("timm/resnet50d.ra4_e3600_r224_in1k")

    Resize is the size divided by the share of the crop, rounded down as in timm. keras.applications says nothing of
    scaling, so that its views are those of the authors of these weights (KaimingHe/deep-residual-networks).

    Args:
        name: a network with published weights, as for `create_model(name, weights="imagenet")`; a published tag, such
            as "timm/resnet50d.ra2_in1k", without "timm/" too, or "ResNet50" of keras.applications; or a network with
            weights="cifar10".
        tested: whether to return the size and the crop at which the published accuracy was measured, not those of
            training.

    Raises:
        InputError: no such weights, or their source does not say.
    """
    if name in zoo.table():
        return of_training(zoo.read(zoo.path_of(name)))
    if name in published.best():
        tag = published.best()[name]
    elif published.is_tag(name):
        tag = published.find(name)
    else:
        nearest = ", ".join(published.nearest(name))
        raise InputError(
            f"{name}: no published weights, run folder or exported model; the nearest tags are {nearest}, and "
            f"{', '.join(published.best())} have weights=imagenet"
        )
    size, crop = (tag.test_size, tag.test_crop) if tested else (tag.size, tag.crop)
    if not crop:
        raise InputError(f"{name}: its source does not say what images it expects")
    mean, std = (tuple(round(255 * value, 3) for value in values) for values in (tag.mean, tag.std))
    order = "BGR" if tag.publisher == "keras" and tag.std[0] < 0.1 else "RGB"
    return Preprocessing(mean, std, size, scaled(size, crop), tag.interpolation, order)


def of_training(training: zoo.Training) -> Preprocessing:
    """Return the preprocessing of weights that say how they were trained: the image is scaled to the size of the crop.

    Means and deviations are the very numbers of the training.
    """
    return Preprocessing(training.mean, training.std, training.size, training.size)


def of_file(path: str | pathlib.Path) -> Preprocessing | None:
    """Return the preprocessing that a file of weights has in its header, see `zoo`; None if it has none.

    Raises:
        InputError: the file is damaged.
    """
    training = zoo.read(path)
    return of_training(training) if training else None


def scaled(size: int, crop: float) -> int:
    """Return the shorter side in pixels of the image of which a crop of `size` is the share `crop`, as timm does.

    >>> scaled(224, 0.95)
    235
    """
    return int(size / crop)


def name_of(mean: Sequence) -> str:
    """Return the --normalization that is nearest to means in levels: "imagenet", or "inception" for 127.5.

    Of a mean image, its means over all pixels count.
    """
    mean = np.reshape(mean, (-1, 3)).mean(0)
    return "inception" if abs(mean[0] - 127.5) < 1 and abs(mean[2] - 127.5) < 1 else "imagenet"
