"""Tables of labels: CSV files that name the class, and optionally the split, of each image file."""

import csv
import dataclasses
import io
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from resnet_tf.data import archives
from resnet_tf.data.ignored import is_hidden
from resnet_tf.data.splits import ANY_SPLIT_NAMES, listed
from resnet_tf.errors import InputError

# Names of columns in any case, the first one that a table has is used. A name of a class goes before its number.
_FILE = (
    *("file", "filename", "file_name", "filepath", "file_path", "image", "image_name", "imagename", "image_path"),
    *("path", "img", "image_id", "id", "name"),
)
_LABEL = (
    *("class_name", "classname", "label_name", "category_name", "label", "labels", "class", "category", "target"),
    *("breed", "species", "variety", "type", "tag", "diagnosis", "dx"),
)
_SPLIT = ("split", "set", "subset", "partition")
_SUFFIXES = (".csv", ".tsv")
_DELIMITERS = ",;\t"
_SHOWN = 5
_LARGEST = 2**30  # bytes; a row takes some 50


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of labels, matched with the images of a data set.

    Attributes:
        name: name of the file in words.
        member: path of the table within the data set; "" if it lies elsewhere.
        rows: {name of an image: (class, split)}; the split is "train" if the data do not tell.
        splits_from: where the splits are from, in words; "" if the data have none.
    """

    name: str
    member: str
    rows: dict[str, tuple[str, str]]
    splits_from: str


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row as it is written: line number, file, class, and split or ""."""

    line: int
    file: str
    label: str
    split: str


def read(path: Path, root: Path, images: list[str]) -> Table:
    """Read a table of labels that the user names.

    The table has a header. Files are named relative to the data set, else to the folder of the table, else by the end
    of their path, each with or without the suffix of the image.

    Args:
        path: a CSV whose delimiter is a comma, semicolon or tab.
        root: the folder or archive of the data set.
        images: names of the images in the data set.

    Raises:
        InputError: the table cannot be read or lacks a column; a cell is empty; a file is missing, ambiguous, or has
            two labels; or a split has an unknown name. It begins with "--labels".
    """
    where = f"--labels: {path}"
    data = _contents(where, path)
    relative = os.path.relpath(path.resolve(), root.resolve()).replace(os.sep, "/")
    member = "" if relative.startswith("../") or not root.is_dir() else relative
    return _matched(where, path.name, member, data, _Finder(images, root, relative.rpartition("/")[0]))


def read_column(where: str, path: Path, column: str, root: Path, images: list[str]) -> dict[str, tuple[int, str]]:
    """Read one column of a table whose rows name images.

    Args:
        where: the flag and the file, to begin an error with.
        path: a CSV whose delimiter is a comma, semicolon or tab, with a header.
        column: name of the column.
        root: the folder or archive of the data set.
        images: names of the images in the data set.

    Returns:
        {name of an image: (line number, cell)}; images may be without a row.

    Raises:
        InputError: the table cannot be read, or lacks the column or one of files; a cell is empty; or a file is
            missing, ambiguous, or in two rows.
    """
    header, rows = _parsed(where, _contents(where, path))
    file = _columns(header)[0]
    if file is None or column not in header:
        lacking = "of files, such as path" if file is None else column
        raise InputError(f"{where}: there is no column {lacking}, only {listed(_shown(header))}")
    relative = os.path.relpath(path.resolve(), root.resolve()).replace(os.sep, "/")
    finder, at, found = _Finder(images, root, relative.rpartition("/")[0]), header.index(column), {}
    for line, row in rows:
        if max(file, at) >= len(row) or not row[at].strip():
            raise InputError(f"{where}, line {line}: no {column}")
        meant = finder.find(row[file])
        if len(meant) != 1:
            what = f"means several images: {listed(sorted(meant), 3)}" if meant else "is no image of the data"
            raise InputError(f"{where}, line {line}: {_shown([row[file]])[0]} {what}")
        if meant[0] in found:
            raise InputError(f"{where}: {meant[0]} is in line {found[meant[0]][0]} and again in line {line}")
        found[meant[0]] = line, row[at].strip()
    return found


def _contents(where: str, path: Path) -> bytes:
    """Return the bytes of a table that the user names."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _LARGEST else b""
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}") from error
    if size > _LARGEST:
        raise InputError(f"{where}: {size:,} bytes, too many for a table of labels")
    return data


def beside(root: Path, images: list[str]) -> Table | None:
    """Return the only table of labels in a data set, or beside its folder, that fits its images; None if there is none.

    A table fits if it has a column of files and a column of labels with usual names and one of its files is an image.
    Beside a folder NAME, NAME.csv, NAME_labels.csv and labels.csv are looked at. Samples of submissions are not tables
    of labels.

    Raises:
        InputError: several tables fit, or the one that fits has a fault; see `read`.
    """
    fitting = []
    for member, data in _candidates(root):
        try:
            header, rows = _parsed("", data)
        except InputError:
            continue
        file, label, _ = _columns(header)
        if file is None or label is None:
            continue
        finder = _Finder(images, root, member.rpartition("/")[0])
        if any(finder.find(row[file]) for _, row in rows if len(row) > file):
            fitting.append((member, data, finder))
    if len(fitting) > 1:
        names = listed(sorted(member for member, *_ in fitting))
        raise InputError(f"{root} has several tables of labels: {names}; choose one of them with --labels")
    if not fitting:
        return None
    ((member, data, finder),) = fitting
    inside = "" if member.startswith("../") else member
    return _matched(f"{root}: {member}", PurePosixPath(member).name, inside, data, finder)


def is_table(name: str) -> bool:
    """Return whether a file may be a table of labels that is found by itself, by its name."""
    name = name.rpartition("/")[2].lower()
    return name.endswith(_SUFFIXES) and "submission" not in name


def _candidates(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield paths relative to the data set, and contents, of files that may be tables of labels."""
    yield from (
        (name, data)
        for name, data in archives.read_members(root, lambda name: is_table(name) and not is_hidden(name))
        if not name.endswith("/")
    )
    if root.is_dir():
        folder = root.resolve()
        for stem in (folder.name, f"{folder.name}_labels", "labels"):
            for suffix in _SUFFIXES:
                path = folder.parent / (stem + suffix)
                if path.is_file() and path.stat().st_size <= archives.MAX_MEMBER_BYTES:
                    yield f"../{path.name}", path.read_bytes()


# --- Cells -----------------------------------------------------------------------------------------------------------


def _parsed(where: str, data: bytes) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the rows that are not empty with their line numbers."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", "replace")
    else:
        # Names of files may be any bytes, which Python decodes in the same way.
        text = data.decode("utf-8-sig", "surrogateescape")
    first = next((line for line in text.splitlines() if line.strip()), "")
    headers = {delimiter: next(csv.reader([first], delimiter=delimiter), []) for delimiter in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda one: (None not in _columns(headers[one])[:2], len(headers[one])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    try:
        rows.extend((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:
        raise InputError(f"{where}, line {reader.line_num}: no CSV ({error})") from error
    if not rows:
        raise InputError(f"{where}: the table is empty")
    return [cell.strip() for cell in rows[0][1]], rows[1:]


def _columns(header: list[str]) -> tuple[int | None, int | None, int | None]:
    """Return the positions of file, label and split, each None if there is no such column."""
    names = [name.strip().lower().replace(" ", "_") for name in header]
    return tuple(
        next((names.index(name) for name in wanted if name in names), None) for wanted in (_FILE, _LABEL, _SPLIT)
    )


def _rows(where: str, data: bytes) -> tuple[list[_Row], str]:
    """Return the rows of a table, and the name of the column of splits or ""."""
    header, rows = _parsed(where, data)
    file, label, split = _columns(header)
    if file is not None and label is None and len(header) == 2 + (split is not None):
        (label,) = {0, 1, 2}.intersection(range(len(header))) - {file, split}  # the only one that is left
    if file is None or label is None:
        raise InputError(
            f"{where}: needs a header with a column of files, such as file or id, and one of classes, such as label or "
            f"class; found {listed(_shown(header))}"
        )
    found = []
    for line, row in rows:
        cells = [row[at].strip() if at is not None and at < len(row) else "" for at in (label, split)]
        name = row[file] if file < len(row) else ""
        for cell, what in ((name.strip(), "file"), (cells[0], "label")):
            if not cell:
                raise InputError(f"{where}, line {line}: no {what}")
        kinds = {unicodedata.category(letter) for letter in cells[0]}
        if "Cs" in kinds:
            raise InputError(f"{where}, line {line}: a label that is no UTF-8; save the table as UTF-8")
        if "Cc" in kinds:
            raise InputError(f"{where}, line {line}: a label with a line break or control character")
        if any(cell.strip() for cell in row[len(header) :]):
            raise InputError(
                f"{where}, line {line}: more cells than the header has; a name with the delimiter needs quotes"
            )
        if split is not None:
            if cells[1].lower() not in ANY_SPLIT_NAMES:
                raise InputError(f"{where}, line {line}: {cells[1]!r} is none of the splits train, validation and test")
            cells[1] = ANY_SPLIT_NAMES[cells[1].lower()]
        found.append(_Row(line, name, *cells))
    if not found:
        raise InputError(f"{where}: the table has no rows")
    return found, "" if split is None else header[split]


def _shown(cells: list[str]) -> list[str]:
    """Return cells for an error, which is one line whatever is in them."""
    return [cell if cell.isprintable() else ascii(cell) for cell in cells]


# --- Files -----------------------------------------------------------------------------------------------------------


class _Finder:
    """Finds images by the names that a table gives them."""

    def __init__(self, images: list[str], root: Path, folder: str):
        """Index the images.

        Args:
            images: their names in the data set.
            root: the data set.
            folder: the folder of the table relative to the data set; it may begin with "..".
        """
        self._images, self._folder = set(images), folder
        self._root = f"{root.resolve().as_posix()}/"
        self._by_end: dict[str, list[str]] = {}
        for image in images:
            for name in set(_both(image)):
                self._by_end.setdefault(name.rpartition("/")[2], []).append(image)

    def find(self, name: str) -> list[str]:
        """Return the images that a name means: none, one, or several if it is ambiguous."""
        if name in self._images:
            return [name]
        for form in dict.fromkeys((name, name.strip(), name.strip().replace("\\", "/"))):
            form = os.path.normpath(form.removeprefix(self._root))
            near = os.path.normpath(f"{self._folder}/{form}") if self._folder else form
            if near.startswith("../"):
                near = os.path.normpath(self._root + near).removeprefix(self._root)
            for exact in (form, near):
                if exact in self._images:
                    return [exact]
            wanted = _plain(form)
            ends = self._by_end.get(wanted.rpartition("/")[2], [])
            for whole in (
                [image for image in ends if wanted in _both(image)],
                [image for image in ends if any(f"/{one}".endswith(f"/{wanted}") for one in _both(image))],
            ):
                if whole:
                    return whole
        return []


def _both(image: str) -> tuple[str, str]:
    """Return the name of an image with and without its suffix."""
    image = _plain(image)
    return image, image.rpartition(".")[0]


def _plain(name: str) -> str:
    """Return a name in one form of Unicode, since macOS writes accents in another one than most tables."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _matched(where: str, name: str, member: str, data: bytes, finder: _Finder) -> Table:
    """Return a table whose rows are matched with images."""
    rows, split_column = _rows(where, data)
    matched: dict[str, _Row] = {}
    missing = []
    for row in rows:
        found = finder.find(row.file)
        if len(found) > 1:
            raise InputError(f"{where}, line {row.line}: {row.file} means several files: {listed(sorted(found), 3)}")
        if not found:
            missing.append(row.file)
            continue
        earlier = matched.setdefault(found[0], row)
        if (earlier.label, earlier.split) != (row.label, row.split):
            raise InputError(
                f"{where}: {found[0]} is {' '.join((earlier.label, earlier.split)).strip()} in line {earlier.line} and "
                f"{' '.join((row.label, row.split)).strip()} in line {row.line}"
            )
    if missing:
        count = f"{len(missing):,} of {len(rows):,} files are" if len(missing) > 1 else "a file is"
        raise InputError(f"{where}: {count} missing: {listed(_shown(missing), _SHOWN)}")
    splits, splits_from = {image: row.split for image, row in matched.items()}, f"its column {split_column}"
    if not split_column:
        splits = {image: _split_of(image) for image in matched}
        splits_from = "the folders"
        if None in splits.values() or not {"train"} < set(splits.values()):
            splits, splits_from = dict.fromkeys(matched, "train"), ""
    table = {image: (row.label, splits[image]) for image, row in sorted(matched.items())}
    return Table(name, member, table, splits_from)


def _split_of(image: str) -> str | None:
    """Return the split that a folder of an image names, the outermost one; None if there is none."""
    folders = (part.lower() for part in image.split("/")[:-1])
    return next((ANY_SPLIT_NAMES[part] for part in folders if part in ANY_SPLIT_NAMES), None)
