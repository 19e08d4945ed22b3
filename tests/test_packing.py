"""A packed state is updated as it would be tensor by tensor."""

import numpy as np
import pytest
import tensorflow as tf

from resnet_tf.runs.packing import Packing
from resnet_tf.training import optimizer

SHAPES = {"kernel": (3, 3, 2, 4), "gamma": (4,), "large": (300, 300), "beta": (4,), "dense": (4, 5)}
DECAY = (True, False, True, False, True)
MAKE = {
    "sgd": lambda scales: optimizer.SGD(0.9, True, 0.1, DECAY, scales),
    "adamw": lambda scales: optimizer.Adam(0.9, 0.1, DECAY, decoupled=True, scales=scales),
    "muon": lambda scales: optimizer.Muon(0.9, 0.1, DECAY, scales=scales, matrices=(True, *[False] * 4)),
    "plain muon": lambda scales: optimizer.Muon(0.9, 0.0, (False,) * 5, scales=scales, matrices=(True, *[False] * 4)),
    "lamb": lambda scales: optimizer.LAMB(0.9, 0.1, DECAY, scales=scales),
}


def draw(shapes, seed):
    rng = np.random.default_rng(seed)
    return {name: tf.Variable(rng.uniform(0.1, 1, shape).astype(np.float32)) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "name, scales, left",
    [
        ("sgd", (), {"large", "undecayed", "decayed"}),
        ("adamw", (), {"large", "undecayed", "decayed"}),
        ("lamb", (), {"kernel", "large", "dense", "undecayed"}),  # it scales each weight's step by that weight's norm
        ("muon", (), {"kernel", "large", "undecayed", "decayed"}),  # its matrix stays whole, whether it decays
        ("plain muon", (), {"kernel", "large", "undecayed"}),
        ("sgd", (1.0, 0.5, 1.0, 0.5, 0.1), set(SHAPES)),
    ],
)
@pytest.mark.parametrize("by_shape", [False, True])
def test_packed_update_equals_one_by_one(name, scales, left, by_shape):
    plain = MAKE[name](scales)
    weights, statistics = draw(SHAPES, 0), draw({"mean": (4,), "variance": (4,)}, 1)
    slots = {slot: draw(SHAPES, seed) for seed, slot in enumerate(plain.slots, start=2)}
    gradients = list(draw(SHAPES, 9).values())
    packing = Packing(weights, statistics, plain, by_shape)
    state = {
        "weights": weights,
        "statistics": statistics,
        "slots": slots,
        "averages": weights | statistics,
        "scalars": {},
    }
    packed = packing.pack(state)
    assert set(packed["weights"]) == left and set(packed["statistics"]) == {"statistics"}

    sums = packing.pack_sums({"gradients": gradients, "statistics": list(statistics.values())})
    found, kept = packing.optimizer.update(
        list(packed["weights"].values()),
        {slot: list(values.values()) for slot, values in packed["slots"].items()},
        sums["gradients"], 0.1, tf.constant(3, tf.int64),
    )  # fmt: skip
    packed["weights"] = dict(zip(packed["weights"], found, strict=True))
    packed["slots"] = {slot: dict(zip(packed["weights"], kept[slot], strict=True)) for slot in plain.slots}
    state = packing.unpack(packed)

    expected, expected_slots = plain.update(
        list(weights.values()), {slot: list(values.values()) for slot, values in slots.items()}, gradients, 0.1,
        tf.constant(3, tf.int64),
    )  # fmt: skip
    assert list(state["weights"]) == list(SHAPES)
    assert list(state["averages"]) == [*SHAPES, "mean", "variance"]
    np.testing.assert_array_equal(state["averages"]["variance"], statistics["variance"])
    for tensors, wanted in [
        (state["weights"], expected),
        *((state["slots"][s], expected_slots[s]) for s in plain.slots),
    ]:
        for value, want in zip(tensors.values(), wanted, strict=True):
            np.testing.assert_allclose(value, want, rtol=1e-6)  # one rounding, of vectorised arithmetic


@pytest.mark.parametrize("by_shape", [False, True])
def test_unpacking_undoes_packing(by_shape):
    """Kernels of one shape among others, which by shape are one stack; the vector is in cuDNN's order of axes."""
    shapes = {"a": (3, 3, 2, 4), "bias": (4,), "b": (3, 3, 4, 2), "c": (3, 3, 2, 4), "dense": (4, 2)}
    weights = draw(shapes, 0)
    packing = Packing(weights, {}, optimizer.SGD(0.9, True, 0.1, (True,) * 5, ()), by_shape)
    state = {"weights": weights, "statistics": {}, "averages": {}, "slots": {}, "scalars": {}}
    packed = packing.pack(state)
    (vector,) = packed["weights"].values()
    order = "a c bias b dense" if by_shape else "a bias b c dense"
    expected = [np.moveaxis(weights[one].numpy(), -1, 0) if one in "abc" else weights[one] for one in order.split()]
    np.testing.assert_array_equal(vector, np.concatenate([np.ravel(one) for one in expected]))
    for name, value in packing.unpack(packed)["weights"].items():
        np.testing.assert_array_equal(value, weights[name])
