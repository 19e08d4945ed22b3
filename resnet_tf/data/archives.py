"""Read the files of a tar or zip archive, without unpacking it, or of a folder."""

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from resnet_tf.data.ignored import Ignored
from resnet_tf.errors import InputError

# A sparse or highly compressed member can claim terabytes; the largest useful one has 150 MB.
MAX_MEMBER_BYTES = 2**30


def read_members(path: str | os.PathLike, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files of a tar archive (with any compression), a zip archive or a folder tree.

        for name, data in read_members("flowers.tar.gz", lambda name: name.endswith(".jpg")):
            image = decode(data, name)

    Args:
        path: the archive or the folder.
        wanted: function(name) -> whether to read the file. Names are relative and have forward slashes. It is also
            called for folders, whose names end in "/" and whose content is b"". Links to folders are not followed.

    Yields:
        Pairs of name and content, in the order of the archive, or sorted by name for a folder.

    Raises:
        InputError: `path` does not exist or is no such archive; the archive is damaged, truncated or encrypted; a
            member has an absolute name or a name with "..", or is a link or a device; a wanted file is larger than
            MAX_MEMBER_BYTES; or a wanted file of a folder is a link that leads outside of the folder.
    """
    path = Path(path)
    if path.is_dir():
        yield from _read_folder(path, wanted)
    elif path.exists():
        yield from (_read_zip if _is_zip(path) else _read_tar)(path, wanted)
    else:
        raise InputError(f"{path}: no such file or folder")


class _Member(tarfile.TarInfo):
    """A tar header that requires an end marker.

    By default tarfile treats a damaged or missing header as the end of the archive, so a truncated archive looks like a
    smaller one. It does report a ReadError.
    """

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


# Some damaged extended headers raise a ValueError.
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


def _read_tar(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    try:
        tar = tarfile.open(path, "r:*", tarinfo=_Member)  # noqa: SIM115 (closed below)
    except PermissionError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except _DAMAGE as error:
        raise InputError(f"{path}: neither a tar nor a zip archive, or damaged or truncated") from error
    with tar:
        try:
            for member in tar:
                name = _safe_name(path, member.name, member.isreg() or member.isdir())
                if member.isdir():
                    if wanted(name + "/"):
                        yield name + "/", b""
                elif wanted(name):
                    _check_size(path, name, member.size)
                    yield name, tar.extractfile(member).read()
            # The checksum of the compressed stream comes after the end marker.
            while tar.fileobj.read(2**20):
                pass
        except InputError:
            raise
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())
    return InputError(f"{path}: damaged or truncated archive ({reason}); fetch it again")


def _safe_name(path: Path, name: str, plain: bool) -> str:
    """Return the name of a member; `plain` says whether it is a file or a folder."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise InputError(f"{path}: refused member {name!r}, whose name leads outside of the archive")
    if not plain:
        raise InputError(f"{path}: refused member {name!r}, a link or a device; pack plain files only")
    return str(pure)


def _is_zip(path: Path) -> bool:
    """Return whether a file is a zip archive, by its first bytes; an empty one begins with the second kind."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _read_zip(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    # An unknown compression is a NotImplementedError, which is a RuntimeError.
    damage = (zipfile.BadZipFile, RuntimeError, *_DAMAGE)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if the archive was made on Windows
                plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                name = _safe_name(path, member.filename.replace("\\", "/"), plain)
                if member.filename.endswith(("/", "\\")):
                    if wanted(name + "/"):
                        yield name + "/", b""
                elif wanted(name):
                    if member.flag_bits & 1:
                        raise InputError(f"{path}: {name} is encrypted; pack the files without a password")
                    _check_size(path, name, member.file_size)
                    yield name, archive.read(member)
    except InputError:
        raise
    except damage as error:
        raise _damaged(path, error) from error


def _read_folder(root: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename}: {error.strerror}") from error

    for folder, folders, files in os.walk(root, onerror=fail):
        folders.sort()
        relative = Path(folder).relative_to(root)
        if relative.parts and wanted(relative.as_posix() + "/"):
            yield relative.as_posix() + "/", b""
        for file in sorted(files):
            name, path = (relative / file).as_posix(), Path(folder, file)
            if not wanted(name):
                continue
            if path.is_symlink():
                _check_link(root, path)
            try:
                if path.is_file():  # reading a pipe or device could block forever
                    _check_size(root, name, path.stat().st_size)
                    yield name, path.read_bytes()
            except OSError as error:
                fail(error)


def list_files(
    root: Path, wanted: Callable[[str], bool], follow: Callable[[str], bool] | None = None, ignored=None
) -> Iterator[tuple[str, int]]:
    """Yield the names and sizes of the wanted files of a folder tree, without opening them.

    Args:
        root: the folder.
        wanted: see `read_members`.
        follow: function(name of a link to a folder, with a "/" at the end) -> whether to follow it; None follows no
            link. A link that leads outside of `root`, or to a folder that contains the link, is never followed.
        ignored: an `ignored.Ignored`, which counts links that are not followed, and pipes and devices.

    Yields:
        Pairs of name and size in bytes, unordered; folders are included as in `read_members`, with size 0.

    Raises:
        InputError: a folder cannot be read, or a wanted file is a link that leads outside of `root`.
    """
    ignored = Ignored() if ignored is None else ignored
    top = root.resolve()
    folders = [("", top, ())]  # name, real path, and the real paths of the folders of all links on the way
    try:
        while folders:
            above, real_folder, links = folders.pop()
            with os.scandir(root / above) as entries:
                for entry in entries:
                    name, real, passed = above + entry.name, real_folder / entry.name, links
                    linked = entry.is_symlink()
                    if linked and entry.is_dir():
                        real, passed = Path(os.path.realpath(entry.path)), (*links, real_folder)
                        reason = _not_followed(top, real, passed) or (
                            "" if follow and follow(name + "/") else "of a folder"
                        )
                        if reason:
                            ignored.link(name, reason)
                            continue
                    if entry.is_dir():
                        folders.append((name + "/", real, passed))
                        if wanted(name + "/"):
                            yield name + "/", 0
                    elif linked and not entry.is_file():
                        ignored.link(name, "broken")
                    elif wanted(name):
                        if not entry.is_file():  # a pipe or device
                            ignored.add("no plain files")
                            continue
                        if linked:
                            _check_link(root, Path(entry.path))
                        yield name, entry.stat().st_size
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from error


def _not_followed(top: Path, target: Path, links: tuple[Path, ...]) -> str:
    """Return why a link to the folder `target` cannot be followed, or "" if it can; `links`: folders of the links."""
    if not target.is_relative_to(top):
        return "outside of the folder"
    return "in a circle" if any(link.is_relative_to(target) for link in links) else ""


def _check_link(root: Path, path: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{path}: refused, a link that leads outside of {root}")


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise InputError(f"{path}: refused {name!r}, {size} bytes long; the limit is {MAX_MEMBER_BYTES}")
