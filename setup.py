"""The build step of resnet_tf; pyproject.toml has all else: `pip install -e '.[dev]'`, `pip install '.[gpu]'`."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent


class BuildWithRecipes(build_py):
    """Copy flags/, as `recipes`, and results/zoo.csv into the package: `config.recipes` and `models.zoo` find them.

    A clone reads both where they are.
    """

    def run(self):
        """Build the package, then copy."""
        super().run()
        if not self.editable_mode:
            shutil.copytree(HERE / "flags", pathlib.Path(self.build_lib, "resnet_tf", "recipes"), dirs_exist_ok=True)
            shutil.copy(HERE / "results" / "zoo.csv", pathlib.Path(self.build_lib, "resnet_tf", "models"))


setup(cmdclass={"build_py": BuildWithRecipes})
