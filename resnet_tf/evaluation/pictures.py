"""Files of pictures and of the figures that are drawn in them."""

import csv
import io
import pathlib

from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.evaluation import charts

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito, for every eye


def check(path, command):
    """Refuse a picture that cannot be made, before the work for it.

    Args:
        path: as --out gave it.
        command: what to say needs matplotlib.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        InputError: neither .png nor .svg, no such folder, or matplotlib is not installed.
    """
    if not path.endswith((".png", ".svg")):
        raise InputError(f"--out={path}: ends neither in .png nor in .svg")
    charts.require(command)
    return in_folder("out", path)


def check_table(path, out):
    """The file of the figures, a `pathlib.Path`: as --csv gave it, or beside the picture `out`.

    Raises:
        InputError: another ending than .csv, or no such folder.
    """
    if path and not path.endswith(".csv"):
        raise InputError(f"--csv={path}: does not end in .csv")
    return in_folder("csv", path or out.with_suffix(".csv"))


def check_data_file(flag, path, other):
    """Refuse a file of examples that cannot be written: .parquet, or what may stand for it, such as .csv.

    Args:
        flag: that named it, such as "out".
        path: as the flag gave it.
        other: the other ending.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        InputError: another ending, no such folder, or pyarrow is not installed.
    """
    if not path.endswith((other, ".parquet")):
        raise InputError(f"--{flag}={path}: ends neither in {other} nor in .parquet")
    path = in_folder(flag, path)
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise InputError(
                f"--{flag}={path} needs pyarrow: pip install 'resnet_tf[parquet]'; or name a {other} file"
            ) from None
    return path


def in_folder(flag, path):
    """A path, a `pathlib.Path`; raises InputError where a folder is there, or none to write it to."""
    path = pathlib.Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"--{flag}={path}: {'a folder' if path.is_dir() else 'its folder is not there'}")
    return path


def write(out, figure, dots=100):
    """Write a `matplotlib.figure.Figure` as the ending of `out` says, so many dots an inch; whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format=out.suffix[1:], dpi=dots)
    files.replace_atomically(out, lambda file: file.write(picture.getvalue()))


def write_table(path, columns, rows):
    """Write a CSV file, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *rows])
    files.replace_atomically(path, lambda file: file.write(text.getvalue().encode()))


def colours(count):
    """So many colours that every eye tells apart; beyond six the steps of a scale from dark to light."""
    if count <= len(_COLOURS):
        return _COLOURS[:count]
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * place / (count - 1)) for place in range(count)]


def label(axes, horizontal, vertical):
    """Name the axes of a chart whose horizontal one counts, and leave of its frame these two and a faint grid."""
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def legend(figure):
    """One legend above all charts of a figure, of what the first one draws."""
    lines, names = figure.axes[0].get_legend_handles_labels()
    columns = 2 if max(map(len, names)) < 40 else 1
    figure.legend(lines, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
