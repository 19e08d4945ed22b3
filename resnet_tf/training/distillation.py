"""A teacher whose logits are computed in the student's step (Hinton et al. 2015; Bag of Tricks, section 5.3)."""

import numpy as np
import tensorflow as tf

from resnet_tf.errors import InputError


class Teacher:
    """A trained network in inference mode, on the views that the student sees.

    Attributes:
        variables: of the network, in the order of `logits`: {name: variable}.
    """

    def __init__(self, trained, classes, normalization):
        """Check that the teacher fits the student.

        Args:
            trained: a `network.Trained`, made in the strategy's scope.
            classes: names of the student's classes.
            normalization: the student's `colour.Normalization`.

        Raises:
            InputError: the teacher has other classes, or images normalised for the student cannot be normalised anew
                for the teacher.
        """
        names = trained.classes
        if (names is not None and list(names) != list(classes)) or trained.model.output_shape[-1] != len(classes):
            raise InputError(
                f"--teacher={trained.origin}: {trained.model.output_shape[-1]} classes that are not the "
                f"{len(classes)} of the data"
            )
        self._model = trained.model
        self._trainable = len(trained.model.trainable_variables)
        variables = [*trained.model.trainable_variables, *trained.model.non_trainable_variables]
        self.variables = {variable.path: variable.value for variable in variables}
        # The student's images, mixed and erased, become the teacher's by one affine map of each channel.
        self._scale = normalization.std / trained.normalization.std
        self._shift = (normalization.mean - trained.normalization.mean) / trained.normalization.std
        self._same = np.allclose(self._scale, 1, atol=1e-6) and np.allclose(self._shift, 0, atol=1e-6)
        if not self._same and max(np.ndim(self._scale), np.ndim(self._shift)) > 1:
            raise InputError(
                f"--teacher={trained.origin}: its normalisation or --normalization=pixel differs from pixel to pixel, "
                "and views have moved the pixels; normalise both by channel, or by one mean image"
            )

    def logits(self, values: list[tf.Tensor], images: tf.Tensor) -> tf.Tensor:
        """Return the teacher's logits.

        Args:
            values: tensors of `variables`, in their order.
            images: float32 [n, height, width, 3], normalised for the student.

        Returns:
            float32 [n, classes].
        """
        if not self._same:
            images = images * self._scale + self._shift
        return self._model.stateless_call(values[: self._trainable], values[self._trainable :], images, training=False)[
            0
        ]
