"""What training does to a batch of views, colour first and mixing last; batched, on the device, inside the step."""

import dataclasses

import numpy as np

from resnet_tf.data import colour, mixing, randaugment, resident


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random changes of a batch. What has strength 0 costs nothing.

    The order is that of the papers' code: RandAugment on uint8 pixels, jitter and PCA noise in [0, 255],
    normalisation, then erasing, and mixing last, so that both partners are augmented.

    Attributes:
        color_jitter: strengths of brightness, contrast, saturation and hue; see `colour.jitter`.
        lighting: deviation of the PCA noise's coefficients; see `colour.lighting`.
        erasing: probability of random erasing; see `mixing.erase`.
        mixup: alpha of mixup; see `mixing.mixup`.
        cutmix: alpha of CutMix; where both are above 0, each example takes either with probability 0.5.
        randaugment: operations, magnitude and, if any, its deviation; see `randaugment.augment`. Empty for none.
        erasing_area: smallest and largest part of the image that is erased.
        erasing_fill: "mean": what is erased becomes 0, after normalisation the mean colour; "black": what black
            pixels become by the normalisation, as where erasing comes before it (torchvision's usual order).
    """

    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    lighting: float = 0.0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: tuple[float, ...] = ()
    erasing_area: tuple[float, float] = (0.02, 0.4)
    erasing_fill: str = "mean"

    def colour(self, pixels, keys, normalization):
        """RandAugment, jitter, PCA noise and normalisation.

        Args:
            pixels: uint8 [n, height, width, 3].
            keys: int64 [n]; see `draws.keys`.
            normalization: a `colour.Normalization`; None to stay in [0, 255].

        Returns:
            float32 [n, height, width, 3].
        """
        if self.randaugment:
            pixels = randaugment.augment(pixels, keys, *self.randaugment)
        matrix = offset = None
        if any(self.color_jitter):
            matrix, offset = colour.jitter(pixels, keys, self.color_jitter)
        if self.lighting:
            noise = colour.lighting(keys, self.lighting)
            offset = noise if offset is None else offset + noise
        return colour.transform(pixels, matrix, offset, normalization)

    def mix(self, images, targets, keys, normalization=None):
        """Erasing, mixup and CutMix.

        Args:
            images: float32 [n, height, width, 3], normalised; n even for mixup and CutMix.
            targets: float32 [n, classes].
            keys: int64 [n].
            normalization: that of the images; see `colour`.

        Returns:
            images and targets of the same shapes.
        """
        if self.erasing:
            black = self.erasing_fill == "black" and normalization
            fill = normalization(np.zeros([1, 1, 3], np.uint8)) if black else 0.0
            images = mixing.erase(images, keys, self.erasing, self.erasing_area, fill)
        if self.mixup or self.cutmix:
            images, targets, _ = mixing.mix(images, targets, keys, self.mixup, self.cutmix)
        return images, targets

    def finish(self, pixels, targets, keys, normalization, crop=None):
        """All of it: from decoded views to what the network is trained on.

        Args:
            pixels: uint8 [n, height, width, 3].
            targets: float32 [n, classes].
            keys: int64 [n].
            normalization: see `colour`.
            crop: what has `pad` and `mirror`, for `resident.pad_crop_mirror`; None for views that are cropped already.

        Returns:
            images, float32 [n, height, width, 3], and targets, float32 [n, classes].
        """
        images = self.colour(pixels, keys, normalization)
        if crop:
            images = resident.pad_crop_mirror(images, *resident.draw_views(keys, crop.pad, crop.mirror), crop.pad)
        return self.mix(images, targets, keys, normalization)
