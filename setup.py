"""Install resnet_tf: `pip install -e .[dev]` for work on it, `pip install .[gpu]` for training on GPUs."""

import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
EXTRAS = {
    "gpu": ["tensorflow[and-cuda]==2.21.*"],
    "demo": ["scikit-learn>=1.4"],
    "convert": ["huggingface_hub>=0.23", "safetensors>=0.4"],
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "tf2onnx>=1.17"],
    "serve": ["fastapi>=0.115", "uvicorn>=0.30", "python-multipart>=0.0.12"],
    "heic": ["pillow-heif>=0.18"],
    "detect": ["faster-coco-eval>=1.6"],
    "mlflow": ["mlflow-skinny>=2.14"],
    "wandb": ["wandb>=0.17"],
    "parquet": ["pyarrow>=15"],
    "plot": ["matplotlib>=3.8"],
    "profile": ["tensorboard-plugin-profile>=2.20"],
}
EXTRAS["dev"] = [
    *EXTRAS["demo"],
    *EXTRAS["plot"],
    *EXTRAS["parquet"],
    *EXTRAS["convert"],
    *EXTRAS["onnx"],
    *EXTRAS["serve"],
    *EXTRAS["mlflow"],
    *EXTRAS["heic"],
    *EXTRAS["detect"],
    *EXTRAS["profile"],
    "hypothesis>=6.100",
    "import-linter>=2.17",
    "ipykernel>=6",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "pycocotools>=2.0.8",  # what COCO's figures are checked against
    "pytest>=8",
    "pytest-xdist>=3.6",
    "ruff==0.14.*",
]


class BuildWithRecipes(build_py):
    """Copy flags/ into the package as `recipes`, where `config.recipes` finds it; a clone reads flags/ itself."""

    def run(self):
        """Build the package, then copy."""
        super().run()
        if not self.editable_mode:
            shutil.copytree(HERE / "flags", pathlib.Path(self.build_lib, "resnet_tf", "recipes"), dirs_exist_ok=True)


setup(
    cmdclass={"build_py": BuildWithRecipes},
    name="resnet_tf",
    version=re.search(r'__version__ = "(.+)"', (HERE / "resnet_tf" / "__init__.py").read_text())[1],
    description="The ResNet family for TensorFlow: graphs of the papers, fast training, honest numbers.",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["resnet_tf", "resnet_tf.*"]),
    package_data={"resnet_tf.serving": ["web/*.html"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        "tensorflow==2.21.*",
        "keras==3.15.*",
        "absl-py>=2.1",
        "pyyaml>=6",
        "tensorboard>=2.20",  # tf.summary lives there
        "tensorflow-datasets>=4.9.9",
        "importlib_resources>=6",  # tensorflow-datasets needs it and does not say so
        "keras-cv>=0.9",
        "tensorflow-serving-api==2.21.*",  # messages alone, 250 kB: warm-up requests of exported models
        "pillow>=10",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["resnet-tf = resnet_tf.commands.main:main"]},
)
