"""The files of a tar archive or of a folder, one by one and without unpacking."""

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from resnet_tf.data.ignored import Ignored
from resnet_tf.errors import InputError

# A sparse or highly compressed member can claim terabytes; the largest one of use is 150 MB.
MAX_MEMBER_BYTES = 2**30


def read_members(path: str | os.PathLike, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yields the wanted files of a tar archive (of any compression) or of a folder tree.

    Args:
        path: the archive or the folder.
        wanted: told the name of each file, relative and with forward slashes, says whether to read
            it. Folders are offered too, with a "/" at the end of their names, and yield b"".

    Yields:
        Pairs of name and content: an archive's in the order they are stored, a folder's sorted.

    Raises:
        InputError: `path` does not exist, is no tar archive, is damaged or truncated; a member has an
            absolute name or one with "..", or is a link or a device; a wanted file is larger than
            MAX_MEMBER_BYTES; or, in a folder, a wanted file is a link that leads outside of it. Links
            to folders are not followed.
    """
    path = Path(path)
    if path.is_dir():
        yield from _read_folder(path, wanted)
    elif path.exists():
        yield from _read_tar(path, wanted)
    else:
        raise InputError(f"{path}: no such file or folder")


class _Member(tarfile.TarInfo):
    """A tar header that insists on an end marker.

    By itself tarfile takes a damaged header, or the lack of one, for the archive's end, so that a
    truncated archive passes for a smaller one. A ReadError is not taken so.
    """

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


# ValueError: what some damaged extended headers end in.
_DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


def _read_tar(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    try:
        tar = tarfile.open(path, "r:*", tarinfo=_Member)  # noqa: SIM115 (closed below)
    except PermissionError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except _DAMAGE as error:
        raise InputError(f"{path}: not a tar archive, or damaged or truncated") from error
    with tar:
        try:
            for member in tar:
                name = _safe_name(path, member)
                if member.isdir():
                    if wanted(name + "/"):
                        yield name + "/", b""
                elif wanted(name):
                    _check_size(path, name, member.size)
                    yield name, tar.extractfile(member).read()
            # What follows the end marker holds the checksum of the compressed stream.
            while tar.fileobj.read(2**20):
                pass
        except InputError:
            raise
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: damaged or truncated archive ({reason}); fetch it again") from error


def _safe_name(path: Path, member: tarfile.TarInfo) -> str:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise InputError(f"{path}: refused member {member.name!r}, whose name leads outside of the archive")
    if not (member.isreg() or member.isdir()):
        raise InputError(f"{path}: refused member {member.name!r}, a link or a device; pack plain files only")
    return str(name)


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
                if path.is_file():  # no pipe or device, where reading could wait for ever
                    _check_size(root, name, path.stat().st_size)
                    yield name, path.read_bytes()
            except OSError as error:
                fail(error)


def list_files(
    root: Path, wanted: Callable[[str], bool], follow: Callable[[str], bool] | None = None, ignored=None
) -> Iterator[tuple[str, int]]:
    """Yields the wanted files of a folder tree and their sizes, without opening them.

    Args:
        root: the folder.
        wanted: see `read_members`.
        follow: told the name of each link to a folder, with a "/" at the end, says whether to go into it. A link that
            leads outside of `root`, or back to a folder that it lies in, is never followed. None follows none.
        ignored: an `ignored.Ignored`, which is told of links that are not followed and of what is no plain file.

    Yields:
        Pairs of name and size in bytes, in no order; folders as in `read_members`, of size 0.

    Raises:
        InputError: a folder cannot be read, or a wanted file is a link that leads outside of `root`.
    """
    ignored = Ignored() if ignored is None else ignored
    top = root.resolve()
    folders = [("", top, ())]  # names, where they really are, and where the links really are that led there
    try:
        while folders:
            above, place, links = folders.pop()
            with os.scandir(root / above) as entries:
                for entry in entries:
                    name, real, passed = above + entry.name, place / entry.name, links
                    linked = entry.is_symlink()
                    if linked and entry.is_dir():
                        real, passed = Path(os.path.realpath(entry.path)), (*links, place)
                        why = _not_followed(top, real, passed) or (
                            "" if follow and follow(name + "/") else "of a folder"
                        )
                        if why:
                            ignored.link(name, why)
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


def _not_followed(top: Path, target: Path, places: tuple[Path, ...]) -> str:
    """Why a link to a folder cannot be followed, from where it leads and the links on the way; "" where it can."""
    if not target.is_relative_to(top):
        return "outside of the folder"
    return "in a circle" if any(place.is_relative_to(target) for place in places) else ""


def _check_link(root: Path, path: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{path}: refused, a link that leads outside of {root}")


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise InputError(f"{path}: refused {name!r}, {size} bytes long; the limit is {MAX_MEMBER_BYTES}")
