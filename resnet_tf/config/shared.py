"""Settings that several sections declare. Each function returns a new field, since a dataclass keeps its own."""

from resnet_tf.config.fields import setting


def exif_setting(used_with=None):
    """Declare --exif, for every command that reads images."""
    return setting(
        "apply",
        "EXIF orientation tags. apply: rotate images upright; ignore: keep the stored orientation, as runs recorded "
        "before this flag do. TIFF and HEIC images are always upright.",
        choices=("apply", "ignore"),
        used_with=used_with,
        earlier="ignore",
    )


def weights_setting(used_with=None):
    """Declare --weights: which weights of a run to use."""
    return setting(
        "",
        "raw: the last checkpoint; ema: its moving average, for runs with --ema; best: the raw weights of the step "
        "with the highest score on the held-out validation split. Unset: best for runs with --finish_on=best, else "
        "raw.",
        choices=("", "raw", "ema", "best"),
        used_with=used_with,
    )


def interpolation_setting(used_with=None):
    """Declare --interpolation, for every command that makes evaluation views."""
    return setting(
        "",
        "Scaling in evaluation and export as Pillow and torchvision do it, so also timm: bilinear or bicubic, with the "
        "longer side rounded down. Unset: bilinear, with the longer side rounded to the nearest.",
        choices=("", "bilinear", "bicubic"),
        used_with=used_with,
    )


def color_jitter_setting():
    """Declare --color_jitter."""
    return setting((), "Ranges for brightness, contrast, saturation and hue factors (Bag of Tricks: 0.4,0,0.4,0.4).")


def lighting_setting():
    """Declare --lighting."""
    return setting(0.0, "Standard deviation of PCA colour noise (AlexNet, Bag of Tricks: 0.1).", low=0.0)


def threads_setting(used_with=None):
    """Declare --threads."""
    return setting(0, "Image decoding threads. 0: one for each core.", low=0, used_with=used_with, changes_result=False)


def normalization_setting():
    """Declare --normalization of segmentation and detection."""
    return setting(
        "imagenet",
        "imagenet: the constants of Bag of Tricks; inception: mean and deviation 127.5; channel: mean and standard "
        "deviation of each channel.",
        choices=("imagenet", "channel", "inception"),
    )
