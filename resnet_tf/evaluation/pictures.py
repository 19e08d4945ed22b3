"""Files of pictures and tables: checks of their paths, atomic writes, and the common style of line charts."""

import csv
import io
import pathlib
from collections.abc import Iterable, Sequence

from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.evaluation import charts

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito


def check(path: str, command: str) -> pathlib.Path:
    """Check that a picture can be written, before the work for it begins, and return its path.

    Args:
        path: value of --out.
        command: name of the command, for the error.

    Raises:
        InputError: the path ends neither in .png nor in .svg, its folder is missing, or matplotlib is not installed.
    """
    if not path.endswith((".png", ".svg")):
        raise InputError(f"--out={path}: ends neither in .png nor in .svg")
    charts.require(command)
    return in_folder("out", path)


def check_table(path: str, out: pathlib.Path) -> pathlib.Path:
    """Return the path of a chart's numbers: the value of --csv, or, if that is "", a file beside the picture `out`.

    Raises:
        InputError: the path does not end in .csv, or its folder is missing.
    """
    if path and not path.endswith(".csv"):
        raise InputError(f"--csv={path}: does not end in .csv")
    return in_folder("csv", path or out.with_suffix(".csv"))


def check_data_file(flag: str, path: str, suffix: str) -> pathlib.Path:
    """Check that a file of examples can be written, before the work for it begins, and return its path.

    Args:
        flag: name of the flag, such as "out".
        path: value of the flag.
        suffix: the allowed ending beside .parquet, such as ".csv".

    Raises:
        InputError: the path has another ending, its folder is missing, or pyarrow is not installed.
    """
    if not path.endswith((suffix, ".parquet")):
        raise InputError(f"--{flag}={path}: ends neither in {suffix} nor in .parquet")
    path = in_folder(flag, path)
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            remedy = f"pip install 'resnet_tf[parquet]'; or name a {suffix} file"
            raise InputError(f"--{flag}={path} needs pyarrow: {remedy}") from None
    return path


def in_folder(flag: str, path: str | pathlib.Path) -> pathlib.Path:
    """Return a path to write to; raise InputError if it is a folder or its folder is missing."""
    path = pathlib.Path(path)
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"--{flag}={path}: {'a folder' if path.is_dir() else 'its folder is not there'}")
    return path


def write(out: pathlib.Path, figure, dpi: int = 100) -> None:
    """Write a `matplotlib.figure.Figure` to a file atomically, in the format of its ending."""
    picture = io.BytesIO()
    figure.savefig(picture, format=out.suffix[1:], dpi=dpi)
    files.replace_atomically(out, lambda file: file.write(picture.getvalue()))


def csv_text(columns: Iterable, rows: Iterable) -> str:
    """Return a header and rows of values as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    return text.getvalue()


def write_table(path: str | pathlib.Path, columns: Iterable, rows: Iterable) -> None:
    """Write a CSV file atomically."""
    data = csv_text(columns, rows).encode("utf-8", "surrogateescape")  # names of files may be any bytes
    files.replace_atomically(path, lambda file: file.write(data))


def write_parquet(path: str | pathlib.Path, table) -> None:
    """Write a `pyarrow.Table` to a Parquet file atomically."""
    import pyarrow.parquet

    files.replace_atomically(path, lambda file: pyarrow.parquet.write_table(table, file))


def colours(count: int) -> Sequence:
    """Return colours that colour-blind readers can tell apart; if more than six, steps of a dark-to-light scale."""
    if count <= len(_COLOURS):
        return _COLOURS[:count]
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * index / (count - 1)) for index in range(count)]


def label(axes, horizontal: str, vertical: str) -> None:
    """Style a line chart: label its axes, show whole numbers on the horizontal one, add a faint grid."""
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def legend(figure) -> None:
    """Draw one legend above all charts of a figure, with the lines of its first chart."""
    lines, names = figure.axes[0].get_legend_handles_labels()
    columns = 2 if max(map(len, names)) < 40 else 1
    figure.legend(lines, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
