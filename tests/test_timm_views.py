"""Evaluation views of published weights beside timm's own: its goldens of noise, and its steps in Pillow on photos."""

import io
import pathlib
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from resnet_tf.data import geometry, images, orientation
from resnet_tf.models import preprocessing

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))

from check_views import SHAPES, TAGS, noise  # noqa: E402

LEVELS = {"bicubic": 0, "bilinear": 1}  # bilinear is not rounded between the axes, which changes a value by one at most


@pytest.mark.parametrize("tag", TAGS)
def test_views_of_noise_are_timms(tag):
    golden = np.load(ROOT / "tests" / "golden" / "views" / "timm_views.npz")[tag]
    view = preprocessing.of_published(tag, tested=True)
    for shape, expected in zip(SHAPES, golden, strict=True):
        found = images.resize_center(noise(*shape), view.size, view.resize, view.interpolation).numpy()
        assert np.abs(found[::16, ::16].astype(int) - expected).max() <= LEVELS[view.interpolation]


def by_pillow(image, view):
    """torchvision's Resize and CenterCrop, which timm's transform is made of, in Pillow alone."""
    width, height = image.size
    shorter = min(width, height)
    sides = [view.resize * side // shorter for side in (width, height)]
    image = image.resize(sides, getattr(Image.Resampling, view.interpolation.upper()))
    left, top = (round((side - view.size) / 2) for side in sides)
    return np.asarray(image.crop((left, top, left + view.size, top + view.size)))


@pytest.fixture(scope="module")
def photos(real_data):
    """Every fourth of the samples of ImageNet: {name: bytes}."""
    with tarfile.open(real_data / "imagenet_samples100.tar") as tar:
        files = sorted((member for member in tar if member.isfile()), key=lambda member: member.name)
        return {member.name: tar.extractfile(member).read() for member in files[::4]}


@pytest.mark.parametrize("tag", TAGS[:5])
def test_views_of_photos_are_timms(tag, photos):
    view, treated = preprocessing.of_published(tag, tested=True), orientation.treated("ignore")
    for name, data in photos.items():
        expected = by_pillow(Image.open(io.BytesIO(data)).convert("RGB"), view)
        found = geometry.center(treated(data), view.size, view.resize, None, view.interpolation).numpy()
        assert np.abs(found.astype(int) - expected).max() <= LEVELS[view.interpolation], name
