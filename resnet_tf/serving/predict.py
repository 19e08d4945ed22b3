"""Classify image files with an exported model, here or on a server."""

import collections
import concurrent.futures
import csv
import glob
import io
import itertools
import logging
import pathlib

from resnet_tf import files
from resnet_tf.data import formats, images, processors
from resnet_tf.data.ignored import Ignored, is_hidden
from resnet_tf.errors import InputError
from resnet_tf.serving import runtimes

_log = logging.getLogger(__name__)

# --- Files in --------------------------------------------------------------------------------------------------------


def find_images(arguments, listed=()):
    """The image files that a command line names, in its order, those of a folder sorted.

    Args:
        arguments: files; folders, whose images count at any depth, hidden ones left out; patterns, in which ** is any
            depth; and "-" for `listed`.
        listed: lines of a path each, such as standard input; empty ones are left out.

    Returns:
        List of paths, strings. A file that is named is taken whatever its suffix, and need not exist.

    Raises:
        InputError: a folder without images, a pattern that matches nothing, or no path in `listed`.
    """
    found = []
    for argument in arguments:
        if argument == "-":
            named = [line.rstrip("\r\n") for line in listed if line.strip()]
            if not named:
                raise InputError("-: no paths on standard input, one a line")
            found += [path for name in named for path in _files(name)]
        elif pathlib.Path(argument).exists() or not glob.has_magic(argument):
            found += _files(argument)
        else:
            matches = sorted(path for path in glob.iglob(argument, recursive=True) if pathlib.Path(path).is_file())
            if not matches:
                raise InputError(f"{argument}: matches no file")
            found += matches
    return found


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


# --- Answers out -----------------------------------------------------------------------------------------------------


def classify_files(model, paths, batch=32):
    """Classify images in files, which are read ahead by as many threads as there are processors.

    Args:
        model: of `runtimes.load` or `client.connect`.
        paths: of images in any format of `formats`.
        batch: how many at a time.

    Yields:
        For each file in order (path, [(class name, probability), ...], None), best first; or (path, [], InputError)
        where it is no image, and the others go on.

    Raises:
        InputError: a server is lost.
    """
    with concurrent.futures.ThreadPoolExecutor(processors.count()) as pool:
        read = _ahead(pool, lambda path: _read(model, path), paths, 2 * batch)
        while chosen := list(itertools.islice(read, batch)):
            good = [(path, content) for path, content in chosen if not isinstance(content, InputError)]
            answers = iter(_classify(model, good))
            for path, content in chosen:
                answer = content if isinstance(content, InputError) else next(answers)
                yield (path, [], answer) if isinstance(answer, InputError) else (path, answer, None)


def _ahead(pool, function, items, count):
    """Yield (item, function(item)) in order, with so many under way; what is not asked for any more is given up."""
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
    """What a model takes of a file, or the error."""
    try:
        return model.prepare(pathlib.Path(path).read_bytes(), str(path))
    except OSError as error:
        return InputError(f"{path}: {error.strerror}")
    except InputError as error:
        return error


def _classify(model, named):
    """The answers to (path, content), each a list or an error; a batch that is refused is halved until it is known why.

    Whoever decodes says what it cannot decode, and that need not be this machine.
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


# --- Answers written -------------------------------------------------------------------------------------------------

CSV_COLUMNS = ("file", "rank", "class", "probability", "error")


def lines(form, path, best, error, width=0):
    """One file's answer as lines of text, without their ends.

    Args:
        form: "table": one line; "jsonl": one JSON object, "file" and "predictions" or "error"; "csv": a row of
            `CSV_COLUMNS` for each class, rank 1 the likeliest, or one with the error.
        path: of the file, a string.
        best: [(class name, probability), ...].
        error: InputError or None.
        width: of the column of paths in a table.
    """
    path = path.encode(errors="backslashreplace").decode()  # names of files need not be text
    if form == "jsonl":
        named = [{"class": name, "probability": round(score, 6)} for name, score in best]
        return [files.to_json({"file": path, **({"error": str(error)} if error else {"predictions": named})})]
    if form == "csv":
        rows = [(path, rank, name, f"{score:.6f}", "") for rank, (name, score) in enumerate(best, start=1)]
        return [csv_line(row) for row in rows or [(path, "", "", "", error)]]
    answer = f"error: {error}" if error else "  ".join(f"{name} {score:.4f}" for name, score in best)
    return [f"{path:{width}}  {answer}"]


def csv_line(cells):
    """Cells as a line of CSV, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
