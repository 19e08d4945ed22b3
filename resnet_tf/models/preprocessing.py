"""What images a network expects: the preprocessing of published weights, as data and as a Keras layer."""

import dataclasses

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.models import weights

_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # 255 times timm's IMAGENET_DEFAULT_MEAN and _STD
_HALF = ((127.5,) * 3, (127.5,) * 3)  # IMAGENET_INCEPTION_MEAN and _STD


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How to make the input of a network of an image: scale, crop the centre, normalise.

        expected = resnet_tf.preprocessing_of("resnet50_v1d")
        print(expected.size, expected.resize, expected.interpolation)  # 224 256 bicubic
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


# By the repository or class in `weights.PUBLISHED`. Of timm: mean, std, input_size, crop_pct and interpolation of
# default_cfgs in timm/models/resnet.py and resnetv2.py; resize is input_size / crop_pct, rounded down as there. The
# sizes are those of training; timm also scores at larger ones (test_input_size). Of keras.applications: mode "caffe" of
# imagenet_utils.preprocess_input; it says nothing of scaling, so that this is the view of the authors of these weights
# (KaimingHe/deep-residual-networks): the shorter side 256 pixels, the central 224.
_RSB, _PLAIN, _LARGE = (224, 235), (224, 256), (256, 269)  # crop_pct 0.95, 0.875, 0.95
TABLE = (
    {f"timm/resnet{depth}.a1_in1k": Preprocessing(*_IMAGENET, *_RSB, "bicubic") for depth in (18, 34, 50)}
    | {f"timm/resnet{depth}.a1h_in1k": Preprocessing(*_IMAGENET, *_RSB, "bicubic") for depth in (101, 152)}
    | {f"timm/resnet{depth}c.gluon_in1k": Preprocessing(*_IMAGENET, *_PLAIN, "bicubic") for depth in (50, 101, 152)}
    | {f"timm/resnet{depth}d.ra2_in1k": Preprocessing(*_IMAGENET, *_PLAIN, "bicubic") for depth in (18, 34, 50)}
    | {f"timm/resnet{depth}d.ra2_in1k": Preprocessing(*_IMAGENET, *_LARGE, "bicubic") for depth in (101, 152, 200)}
    | {"timm/resnetv2_50.a1h_in1k": Preprocessing(*_HALF, *_RSB, "bicubic")}
    | {
        f"ResNet{depth}": Preprocessing((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), 224, 256, "bilinear", "BGR")
        for depth in (50, 101, 152)
    }
)


def of_published(name: str) -> Preprocessing:
    """Return the preprocessing of published weights.

        of_published("resnet50_v1d") == of_published("timm/resnet50d.ra2_in1k")

    Args:
        name: a network with published weights, as for `create_model(name, weights="imagenet")`; or the weights
            themselves, "timm/resnet50d.ra2_in1k", without "timm/" too, or "ResNet50" of keras.applications.

    Raises:
        InputError: no such weights.
    """
    _, tag = weights.PUBLISHED.get(name, ("", name))
    for known in (tag, f"timm/{tag}"):
        if known in TABLE:
            return TABLE[known]
    raise InputError(
        f"{name}: no published weights, run folder or exported model; weights are published for "
        f"{', '.join(weights.PUBLISHED)}"
    )
