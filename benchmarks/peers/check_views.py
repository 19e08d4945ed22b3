"""Compare evaluation views with timm's own transform, pixel by pixel.

    python benchmarks/peers/check_views.py FOLDER timm   # where timm and PyTorch are: writes FOLDER/timm.npz
    python benchmarks/peers/check_views.py FOLDER        # where this package is: prints the largest differences
    python benchmarks/peers/check_views.py goldens timm  # writes tests/golden/views/timm_views.npz

FOLDER has images; for each tag and image timm's evaluation transform, without its normalisation, makes the central crop
of the size at which the weights are tested. timm does not apply orientation tags, so neither is done here. The goldens
are every 16th pixel of the views of noise that tests can draw again.
"""

import functools
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
TAGS = ("resnet50.a1_in1k", "resnet50.tv_in1k", "resnetrs152.tf_in1k", "resnetv2_101x1_bit.goog_in21k_ft_in1k",
        "resnet50d.ra4_e3600_r224_in1k", "resnet50.a3_in1k")  # fmt: skip


SHAPES = ((375, 500), (301, 299), (60, 83), (900, 640))


def noise(height, width):
    """Return an image that anyone can draw again: uint8 [height, width, 3]."""
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), np.uint8)


def files(folder):
    """Return the images of a folder in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def by_timm(images):
    """Return {tag: uint8 [n, size, size, 3]} of images of Pillow as timm makes them."""
    import timm
    from timm.data import create_transform, resolve_data_config
    from torchvision import transforms

    views = {}
    for tag in TAGS:
        config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(tag).to_dict(), use_test_size=True)
        steps = create_transform(**config, is_training=False).transforms
        steps = [step for step in steps if isinstance(step, (transforms.Resize, transforms.CenterCrop))]
        views[tag] = np.stack([np.asarray(functools.reduce(lambda image, step: step(image), steps, image))
                               for image in images])  # fmt: skip
    return views


def main():
    """Write the views of timm, or compare this package's with them."""
    folder = pathlib.Path(sys.argv[1])
    if sys.argv[2:] == ["timm"]:
        from PIL import Image

        if sys.argv[1] == "goldens":
            views = by_timm([Image.fromarray(noise(*shape)) for shape in SHAPES])
            samples = {tag: view[:, ::16, ::16] for tag, view in views.items()}
            np.savez_compressed(ROOT / "tests" / "golden" / "views" / "timm_views.npz", **samples)
        else:
            np.savez(folder / "timm.npz", **by_timm([Image.open(path).convert("RGB") for path in files(folder)]))
        return
    sys.path.insert(0, str(ROOT))
    from resnet_tf.data import geometry, orientation
    from resnet_tf.models import preprocessing

    treated = orientation.treated("ignore")
    for tag, theirs in np.load(folder / "timm.npz").items():
        view = preprocessing.of_published(tag, tested=True)
        ours = np.stack(
            [
                geometry.center(treated(path.read_bytes()), view.size, view.resize, None, view.interpolation)
                for path in files(folder)
            ]
        )
        difference = np.abs(ours.astype(int) - theirs)
        print(
            f"{tag}: {len(ours)} images of {view.size} pixels, {view.interpolation}, resize {view.resize}: largest "
            f"difference {difference.max()}, of {np.mean(difference > 0):.3%} of the values"
        )


if __name__ == "__main__":
    main()
