"""Classify image files with a model, on this machine or on a server."""

import collections
import concurrent.futures
import csv
import glob
import io
import itertools
import logging
import pathlib
import sys
from collections.abc import Iterable, Iterator

from resnet_tf import files
from resnet_tf.data import formats, images, processors
from resnet_tf.data.ignored import Ignored, is_hidden
from resnet_tf.errors import InputError
from resnet_tf.serving import runtimes

_log = logging.getLogger(__name__)

# --- Finding files ---------------------------------------------------------------------------------------------------


def expand(arguments: Iterable[str], listed: Iterable[str] = ()) -> list[str]:
    """Return the files and folders that a command line names, in its order.

    Args:
        arguments: files and folders, which need not exist; patterns, in which ** matches any depth; "-" for `listed`.
        listed: lines with one path each, such as standard input; empty lines are ignored.

    Raises:
        InputError: a pattern matches nothing, or `listed` has no path.
    """
    names = []
    for argument in arguments:
        if argument == "-":
            lines = [line.rstrip("\r\n") for line in listed if line.strip()]
            if not lines:
                raise InputError("-: no paths on standard input, one a line")
            names += lines
        elif pathlib.Path(argument).exists() or not glob.has_magic(argument):
            names.append(argument)
        else:
            matches = sorted(path for path in glob.iglob(argument, recursive=True) if pathlib.Path(path).is_file())
            if not matches:
                raise InputError(f"{argument}: matches no file")
            names += matches
    return names


def find_images(arguments: Iterable[str], listed: Iterable[str] = ()) -> list[str]:
    """Return the paths of the image files that a command line names; see `expand` and `images_of`."""
    return images_of(expand(arguments, listed))


def images_of(names: Iterable[str], allow_empty: bool = False) -> list[str]:
    """Return the image files that files and folders stand for, in their order.

    Args:
        names: files, with any suffix, which need not exist; folders, whose images at any depth are sorted, without
            hidden ones.
        allow_empty: accept folders without images.

    Raises:
        InputError: a folder has no images.
    """
    return [path for name in names for path in _files(name, allow_empty)]


def images_in(folder: str | pathlib.Path, ignored: Ignored | None = None) -> list[str]:
    """Return the image files of a folder at any depth, sorted, without hidden ones; count others in `ignored`."""
    folder, ignored = pathlib.Path(folder), ignored or Ignored()
    paths = []
    for path in sorted(folder.rglob("*"), key=str):
        inside = path.relative_to(folder).as_posix()
        if path.is_symlink() and not path.is_file():
            ignored.link(inside, "of a folder" if path.is_dir() else "broken")
        elif path.is_file() and not formats.is_image(inside):
            ignored.file(inside)
        elif path.is_file() and not is_hidden(inside):
            paths.append(str(path))
    return paths


def _files(name, allow_empty):
    if not pathlib.Path(name).is_dir():
        return [name]
    ignored = Ignored()
    paths = images_in(name, ignored)
    beside = f"; ignored: {ignored}" if str(ignored) else ""
    if not paths and not allow_empty:
        raise InputError(f"{name}: a folder without images ({', '.join(formats.ALL_SUFFIXES)}){beside}")
    _log.info("%s: %d image%s%s", name, len(paths), "" if len(paths) == 1 else "s", beside)
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
        batch: number of images per batch; fewer if the model takes fewer.

    Yields:
        For each file in order (path, [(class name, probability), ...], None), the likeliest class first; or (path, [],
        InputError) if it is not an image.

    Raises:
        InputError: a server cannot be reached.
    """
    batch = min(batch, getattr(model, "largest_batch", None) or batch)
    with concurrent.futures.ThreadPoolExecutor(processors.count()) as pool:
        read = _ahead(pool, lambda path: _read(model, path), paths, 2 * batch)
        while files_of_batch := list(itertools.islice(read, batch)):
            yield from _answers(model, files_of_batch)


def classify_contents(model, named: Iterable[tuple[str, bytes]]) -> Iterator[tuple]:
    """Classify the contents of image files, such as a batch of a pipeline; see `classify_files`.

    Args:
        model: a model of `runtimes.load`.
        named: (name, content) of each file.

    Yields:
        As `classify_files`, with the name as the path.
    """
    prepared = ((name, _prepared(model, name, content)) for name, content in named)
    largest = getattr(model, "largest_batch", None)
    while batch := list(itertools.islice(prepared, largest)):
        yield from _answers(model, batch)


def _answers(model, batch):
    """Yield (path, classes, error) for each (path, input of the model or an error) of a batch."""
    good = [(path, content) for path, content in batch if not isinstance(content, InputError)]
    predictions = iter(_classify(model, good))
    for path, content in batch:
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
        return _prepared(model, str(path), pathlib.Path(path).read_bytes())
    except OSError as error:
        return InputError(f"{path}: {error.strerror}")


def _prepared(model, name, content):
    """Return the input of the model for the content of a file, or the error."""
    try:
        return model.prepare(content, name)
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
FORMATS = {".csv": "csv", ".jsonl": "jsonl"}  # {suffix of --out: format}
_CLASS_WIDTH = 20  # of the column of classes in a table; a longer name moves the columns behind it


class Output:
    """The results of files as they are found: to standard output at once, or to a file.

    Attributes:
        images: number of images that were classified.
        failed: errors of the others, in order.
        classes: `collections.Counter` of the predicted classes.
    """

    def __init__(self, out: str | pathlib.Path | None, form: str, width: int = 0):
        """Begin; the header of a table or of CSV comes with the first result.

        Args:
            out: file to write, see `save`; None for standard output.
            form: "table", "csv" or "jsonl"; see `lines`.
            width: width of the column of paths in a table.
        """
        self.images, self.failed, self.classes = 0, [], collections.Counter()
        self._out, self._form, self._width = out and pathlib.Path(out), form, width
        headers = {"table": [_row("file", "class", "confidence", "next", width)], "csv": [csv_line(CSV_COLUMNS)]}
        self._waiting, self._is_new = headers.get(form, []), True

    def add(self, path: str, best: list, error: InputError | None) -> None:
        """Add the result of a file, as `classify_files` yields it; warn of an error on stderr."""
        if error:
            self.failed.append(error)
            print(f"warning: {error}", file=sys.stderr, flush=True)
        else:
            self.images += 1
            self.classes[best[0][0]] += 1
        if not error or self._out or self._form != "table":  # a table on the terminal shows the warning alone
            self._write(lines(self._form, path, best, error, self._width))

    def _write(self, texts):
        self._waiting += texts
        if not self._out:
            print("\n".join(self._waiting), flush=True)
            self._waiting = []

    def save(self) -> None:
        """Bring everything into the file: the first time replace the file atomically, later append whole lines.

        Raises:
            OSError: the disk is full, for instance; the file keeps the whole lines that it had.
        """
        if not self._out or not (self._waiting or self._is_new):
            return
        content = "".join(f"{line}\n" for line in self._waiting).encode()
        if self._is_new:
            files.replace_atomically(self._out, lambda file: file.write(content))
        else:
            files.append(self._out, content)
        self._waiting, self._is_new = [], False


def lines(form: str, path: str, best: list, error: InputError | None, width: int = 0) -> list[str]:
    """Format the result of one file as lines of text, without line ends.

    Args:
        form: "table" for one line; "jsonl" for one JSON object with "file" and "predictions" or "error"; "csv" for a
            row of `CSV_COLUMNS` for each class, where rank 1 is the likeliest, or one row with the error.
        path: path of the file.
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
    if error:
        return [f"{path:{width}}  error: {error}"]
    (name, score), *others = best
    return [_row(path, name, f"{score:.4f}", "  ".join(f"{name} {score:.4f}" for name, score in others), width)]


def _row(path, name, confidence, others, width):
    return f"{path:{width}}  {name:{_CLASS_WIDTH}}  {confidence:10}  {others}".rstrip()


def csv_line(cells: Iterable) -> str:
    """Format cells as a line of CSV, without line end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
