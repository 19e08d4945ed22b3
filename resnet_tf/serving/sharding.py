"""Work on a large collection in parts: which files a part has, where it goes, and what was done of it."""

import hashlib
import json
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from resnet_tf import files
from resnet_tf.errors import InputError


class Shard(NamedTuple):
    """A part of the files of a prediction, or of the examples whose features are written.

    Attributes:
        index: its number, from 1.
        count: number of parts.
        out: file for its results, such as answers-00002-of-00008.csv for --out=answers.csv.
    """

    index: int
    count: int
    out: pathlib.Path

    @property
    def manifest(self) -> pathlib.Path:
        """The file that says that the part is done, and counts; it is written last."""
        return self.out.with_name(f"{self.out.name}.done.json")

    def files_of(self, paths: Sequence[str]) -> list[str]:
        """Return every `count`-th path, from `index` on."""
        return list(paths[self.index - 1 :: self.count])

    def finished(self, model: str, paths: Sequence[str]) -> dict | None:
        """Return the counts of this part if it is done already; else None.

        Args:
            model: name of the model.
            paths: the files of the part.

        Raises:
            InputError: what is done is of another model or of other files.
        """
        try:
            found = json.loads(self.manifest.read_text())
            same = (found["model"], found["files_checksum"]) == (model, checksum(paths))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{self.manifest}: damaged; remove it to do this part again") from None
        if not same:
            raise InputError(f"{self.manifest}: done with another model or other files; remove it, or change --out")
        return found if self.out.is_file() else None

    def finish(self, paths: Sequence[str], counts: dict) -> dict:
        """Write the manifest, atomically, and return it: `counts` with the number of files and their checksum."""
        described = {**counts, "shard": f"{self.index}/{self.count}", "files": len(paths)}
        described |= {"files_checksum": checksum(paths)}
        files.write_json(self.manifest, described)
        return described


def parse(shard: str, out: pathlib.Path) -> Shard:
    """Return the part that --shard=I/N names, for --out.

    Raises:
        InputError: not two numbers with 1 <= I <= N.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise InputError(f"--shard={shard}: not I/N, part I of N, with I from 1 to N")
    return Shard(index, count, out.with_name(f"{out.stem}-{index:05d}-of-{count:05d}{out.suffix}"))


def checksum(paths: Sequence[str]) -> str:
    """Return a checksum of names of files, in order."""
    return hashlib.sha256("\0".join(paths).encode(errors="surrogateescape")).hexdigest()[:16]
