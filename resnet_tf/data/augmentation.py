"""Augment a batch of views in training, on the device and inside the training step."""

import dataclasses

import numpy as np
import tensorflow as tf

from resnet_tf.data import colour, mixing, randaugment, resident


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random changes of a batch. A change of strength 0 is skipped.

    The order is that of the papers' code: RandAugment or TrivialAugment on uint8 pixels, jitter and PCA noise in
    [0, 255], normalisation, erasing, and mixing last, so that both partners are augmented.

    Attributes:
        color_jitter: strengths of brightness, contrast, saturation and hue; see `colour.jitter`.
        lighting: standard deviation of the coefficients of the PCA noise; see `colour.lighting`.
        erasing: probability of random erasing; see `mixing.erase`.
        mixup: alpha of mixup; see `mixing.mixup`.
        cutmix: alpha of CutMix. If mixup is used too, each example gets either of them with probability 0.5.
        randaugment: number of operations, magnitude and optionally its deviation; see `randaugment.augment`. Empty
            for no RandAugment.
        erasing_area: smallest and largest fraction of the image area that is erased.
        erasing_fill: value of erased pixels. "mean": 0, which is the mean colour after normalisation. "black": the
            normalised value of black, as if erasing came before normalisation (torchvision's usual order).
        trivialaugment: whether to apply TrivialAugment Wide; see `randaugment.augment_trivially`.
    """

    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    lighting: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: tuple[float, ...] = ()
    erasing_area: tuple[float, float] = (0.02, 0.4)
    erasing_fill: str = "mean"
    trivialaugment: bool = False

    def colour(self, pixels: tf.Tensor, keys: tf.Tensor, normalization) -> tf.Tensor:
        """Apply RandAugment or TrivialAugment, jitter, PCA noise and normalisation.

        Args:
            pixels: uint8 [n, height, width, 3].
            keys: int64 [n]; see `draws.keys`.
            normalization: a `colour.Normalization`; None to stay in [0, 255].

        Returns:
            float32 [n, height, width, 3].
        """
        if self.randaugment:
            pixels = randaugment.augment(pixels, keys, *self.randaugment)
        if self.trivialaugment:
            pixels = randaugment.augment_trivially(pixels, keys)
        matrix = offset = None
        if any(self.color_jitter):
            matrix, offset = colour.jitter(pixels, keys, self.color_jitter)
        if self.lighting:
            noise = colour.lighting(keys, self.lighting)
            offset = noise if offset is None else offset + noise
        return colour.transform(pixels, matrix, offset, normalization)

    def mix(self, images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, normalization=None):
        """Apply erasing, mixup and CutMix.

        Args:
            images: float32 [n, height, width, 3], normalised; n must be even for mixup and CutMix.
            targets: float32 [n, classes].
            keys: int64 [n].
            normalization: the normalisation of the images; see `colour`.

        Returns:
            Images and targets of the same shapes.
        """
        if self.erasing:
            black = self.erasing_fill == "black" and normalization
            fill = normalization(np.zeros([1, 1, 3], np.uint8)) if black else 0.0
            images = mixing.erase(images, keys, self.erasing, self.erasing_area, fill)
        if self.mixup or self.cutmix:
            images, targets, _ = mixing.mix(images, targets, keys, self.mixup, self.cutmix)
        return images, targets

    def finish(self, pixels: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, normalization, crop=None):
        """Apply all changes to decoded views and return the network's inputs and targets.

        Args:
            pixels: uint8 [n, height, width, 3].
            targets: float32 [n, classes].
            keys: int64 [n].
            normalization: see `colour`.
            crop: an object with `pad` and `mirror` for `resident.pad_crop_mirror`; None if the views are cropped.

        Returns:
            Images, float32 [n, height, width, 3], and targets, float32 [n, classes].
        """
        images = self.colour(pixels, keys, normalization)
        if crop:
            images = resident.pad_crop_mirror(images, *resident.draw_views(keys, crop.pad, crop.mirror), crop.pad)
        return self.mix(images, targets, keys, normalization)
