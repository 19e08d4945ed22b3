"""Archives and folders: nothing lost, nothing taken that leads elsewhere, damage refused."""

import tarfile

import numpy as np
import pytest
from files import pack, unpack

from resnet_tf.data import archives, read_members
from resnet_tf.errors import InputError


def everything(path):
    return list(read_members(path, lambda name: True))


def test_read_members_offers_files_and_folders(tmp_path):
    files = {"b/2": b"two", "b/1": b"one", "a": b"", "c/d/e": b"e"}
    root = unpack(tmp_path / "tree", files)
    (root / "empty").mkdir()
    expected = [("a", b""), ("b/", b""), ("b/1", b"one"), ("b/2", b"two"), ("c/", b""), ("c/d/", b"")]
    expected += [("c/d/e", b"e"), ("empty/", b"")]
    assert everything(root) == expected
    assert list(read_members(root, lambda name: name == "b/2")) == [("b/2", b"two")]
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        assert everything(pack(tmp_path / "c.tar", files, mode)) == list(files.items())
    assert list(read_members(tmp_path / "c.tar", lambda name: name == "a")) == [("a", b"")]


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "name, content",
    [
        ("/etc/x.png", b"data"),
        ("train/../../x.png", b"data"),
        ("..", b"data"),
        ("train/a/x.png", member("train/a/x.png", tarfile.SYMTYPE, "ok.txt")),
        ("train/a/x.png", member("train/a/x.png", tarfile.LNKTYPE, "ok.txt")),
        ("train/a/x.png", member("train/a/x.png", tarfile.CHRTYPE)),
        ("train/a/x.png", member("train/a/x.png", tarfile.FIFOTYPE)),
    ],
)
def test_unsafe_members_are_refused_by_name(name, content, tmp_path):
    path = pack(tmp_path / "c.tar.gz", {"ok.txt": b"fine", name: content})
    for wanted in (lambda name: True, lambda name: False):
        with pytest.raises(InputError) as caught:
            list(read_members(path, wanted))
        assert str(path) in str(caught.value) and repr(name) in str(caught.value)


def test_links_in_folders(tmp_path):
    root = unpack(tmp_path / "tree", {"a/1": b"one", "b/2": b"two"})
    outside = unpack(tmp_path / "outside", {"3": b"three"})
    (root / "c").symlink_to(outside, target_is_directory=True)
    (root / "d").symlink_to("a/1")
    assert [item for item in everything(root) if item[1]] == [("d", b"one"), ("a/1", b"one"), ("b/2", b"two")]
    (root / "a" / "e").symlink_to(outside / "3")
    with pytest.raises(InputError, match="a/e: refused, a link that leads outside"):
        everything(root)
    assert list(read_members(root, lambda name: name == "b/2")) == [("b/2", b"two")]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_truncated_archives_are_refused(mode, tmp_path):
    rng = np.random.default_rng(0)
    # One of the sizes fills its last block: what follows it could be missed without a trace.
    files = {f"{index}.bin": rng.bytes(size) for index, size in enumerate((700, 1024, 5000, 100))}
    whole = pack(tmp_path / "whole.tar", files, mode).read_bytes()
    end = len(whole)
    if mode == "w":  # where padding follows the two empty blocks that mark the end
        end = 4 * 512 + 1024 + 1024 + 5120 + 512
    cuts = {*range(0, end, max(end // 60, 1)), *(size for size in range(512, end, 512)), end - 1, end - 5}
    cut = tmp_path / "cut.tar"
    for length in sorted(cuts):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError) as caught:
            everything(cut)
        assert str(cut) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_damaged_archives_are_refused_or_read(mode, tmp_path):
    """No other exception and no shortened list, whichever byte is changed."""
    rng = np.random.default_rng(1)
    files = {f"{index}.bin": rng.bytes(300) for index in range(4)}
    whole = pack(tmp_path / "whole.tar", files, mode).read_bytes()
    path = tmp_path / "damaged.tar"
    refusals = 0
    for at in range(0, min(len(whole), 4 * 1024), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            read = everything(path)
            assert len(read) == 4
            assert mode == "w" or read == list(files.items())  # those carry checksums
        except InputError:
            refusals += 1
    assert refusals > 10


def test_huge_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    files = {"small": b"x" * 1000, "large": b"x" * 1001}
    for place in (pack(tmp_path / "c.tar.gz", files), unpack(tmp_path / "tree", files)):
        assert list(read_members(place, lambda name: name == "small")) == [("small", b"x" * 1000)]
        with pytest.raises(InputError, match="large"):
            everything(place)
