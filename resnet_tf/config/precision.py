"""Values of --precision."""

from typing import NamedTuple


class Precision(NamedTuple):
    """A value of --precision; weights and logits are float32 in all of them.

    Attributes:
        policy: Keras dtype policy of the layers.
        bits: bits of an activation.
        tf32: whether float32 products are rounded to 10 bits on GPUs.
        is_scaled: whether training needs a loss scale.
    """

    policy: str
    bits: int
    tf32: bool = False
    is_scaled: bool = False


PRECISIONS = {
    "float32": Precision("float32", 32),
    "tf32": Precision("float32", 32, tf32=True),
    "bfloat16": Precision("mixed_bfloat16", 16),
    "float16": Precision("mixed_float16", 16, is_scaled=True),
}
