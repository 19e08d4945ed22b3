"""Classify image files with an exported model, on this machine or on a server."""

import collections
import concurrent.futures
import csv
import glob
import io
import itertools
import logging
import pathlib
from collections.abc import Iterable, Iterator

from resnet_tf import files
from resnet_tf.data import formats, images, processors
from resnet_tf.data.ignored import Ignored, is_hidden
from resnet_tf.errors import InputError
from resnet_tf.serving import runtimes

_log = logging.getLogger(__name__)

# --- Finding files ---------------------------------------------------------------------------------------------------


def find_images(arguments: Iterable[str], listed: Iterable[str] = ()) -> list[pathlib.Path]:
    """Return the paths of the image files that a command line names, in its order.

    Args:
        arguments: files, with any suffix, which need not exist; folders, whose images at any depth are sorted, without
            hidden ones; patterns, in which ** matches any depth; and "-" for `listed`.
        listed: lines with one path each, such as standard input; empty lines are ignored.

    Raises:
        InputError: a folder has no images, a pattern matches nothing, or `listed` has no path.
    """
    paths = []
    for argument in arguments:
        if argument == "-":
            named = [line.rstrip("\r\n") for line in listed if line.strip()]
            if not named:
                raise InputError("-: no paths on standard input, one a line")
            paths += [path for name in named for path in _files(name)]
        elif pathlib.Path(argument).exists() or not glob.has_magic(argument):
            paths += _files(argument)
        else:
            matches = sorted(path for path in glob.iglob(argument, recursive=True) if pathlib.Path(path).is_file())
            if not matches:
                raise InputError(f"{argument}: matches no file")
            paths += matches
    return paths


def _files(name):
    folder = pathlib.Path(name)
    if not folder.is_dir():
        return [name]

    paths, ignored = [], Ignored()
    for path in sorted(folder.rglob("*"), key=str):
        inside = path.relative_to(folder).as_posix()
        if path.is_symlink() and not path.is_file():
            ignored.link(inside, "of a folder" if path.is_dir() else "broken")
        elif path.is_file() and not formats.is_image(inside):
            ignored.file(inside)
        elif path.is_file() and not is_hidden(inside):
            paths.append(str(path))
    beside = f"; ignored: {ignored}" if str(ignored) else ""
    if not paths:
        raise InputError(f"{name}: a folder without images ({', '.join(formats.ALL_SUFFIXES)}){beside}")
    _log.info("%s: %d image%s%s", name, len(paths), "s" if len(paths) > 1 else "", beside)
    return paths


# --- Classification --------------------------------------------------------------------------------------------------


def classify_files(model, paths: Iterable[pathlib.Path], batch: int = 32) -> Iterator[tuple]:
    """Classify image files, which threads read in advance.

        model = runtimes.load("model")
        for path, predictions, error in classify_files(model, ["dog.jpg", "cat.png"]):
            print(path, error or predictions[0])

    Args:
        model: a model of `runtimes.load` or `client.connect`.
        paths: paths of images in any format of `formats`.
        batch: number of images per batch.

    Yields:
        For each file in order (path, [(class name, probability), ...], None), the likeliest class first; or (path, [],
        InputError) if it is not an image.

    Raises:
        InputError: a server cannot be reached.
    """
    with concurrent.futures.ThreadPoolExecutor(processors.count()) as pool:
        read = _ahead(pool, lambda path: _read(model, path), paths, 2 * batch)
        while files_of_batch := list(itertools.islice(read, batch)):
            good = [(path, content) for path, content in files_of_batch if not isinstance(content, InputError)]
            predictions = iter(_classify(model, good))
            for path, content in files_of_batch:
                result = content if isinstance(content, InputError) else next(predictions)
                yield (path, [], result) if isinstance(result, InputError) else (path, result, None)


def _ahead(pool, function, items, count):
    """Yield (item, function(item)) in order, with `count` calls submitted in advance and cancelled at the end."""
    items, waiting = iter(items), collections.deque()
    try:
        while True:
            for item in itertools.islice(items, count - len(waiting)):
                waiting.append((item, pool.submit(function, item)))
            if not waiting:
                return
            item, future = waiting.popleft()
            yield item, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


def _read(model, path):
    """Return the input of the model for a file, or the error."""
    try:
        return model.prepare(pathlib.Path(path).read_bytes(), str(path))
    except OSError as error:
        return InputError(f"{path}: {error.strerror}")
    except InputError as error:
        return error


def _classify(model, named):
    """Return a list of classes or an error for each (path, content).

    A refused batch is halved until the bad image is found, since a server, not this machine, may decode the images.
    """
    if not named:
        return []
    try:
        return model.classify([content for _, content in named])
    except runtimes.Refused as error:
        if len(named) > 1:
            middle = len(named) // 2
            return _classify(model, named[:middle]) + _classify(model, named[middle:])
        path, content = named[0]
        try:
            images.decode(content, path)
        except InputError as damage:
            return [damage]
        return [InputError(f"{path}: refused ({error})")]


# --- Output ----------------------------------------------------------------------------------------------------------

CSV_COLUMNS = ("file", "rank", "class", "probability", "error")


def lines(form, path, best, error, width=0):
    """Format the result of one file as lines of text, without line ends.

    Args:
        form: "table" for one line; "jsonl" for one JSON object with "file" and "predictions" or "error"; "csv" for a
            row of `CSV_COLUMNS` for each class, where rank 1 is the likeliest, or one row with the error.
        path: path of the file, a string.
        best: [(class name, probability), ...].
        error: InputError or None.
        width: width of the column of paths in a table.
    """
    path = path.encode(errors="backslashreplace").decode()  # names of files may have invalid characters
    if form == "jsonl":
        named = [{"class": name, "probability": round(score, 6)} for name, score in best]
        return [files.to_json({"file": path, **({"error": str(error)} if error else {"predictions": named})})]
    if form == "csv":
        rows = [(path, rank, name, f"{score:.6f}", "") for rank, (name, score) in enumerate(best, start=1)]
        return [csv_line(row) for row in rows or [(path, "", "", "", error)]]
    result = f"error: {error}" if error else "  ".join(f"{name} {score:.4f}" for name, score in best)
    return [f"{path:{width}}  {result}"]


def csv_line(cells: Iterable) -> str:
    """Format cells as a line of CSV, without line end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
