"""The package as it is installed: what the wheel holds, that it works without a clone, and what it says of itself."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement

import resnet_tf

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")  # besides the folders
# TensorFlow says only what is wrong; threads as in `make test`.
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"}


def output(command, folder, **environment):
    """What a command prints that runs in `folder`, with no way to the clone but those that `environment` names."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy, so that neither what earlier builds left in the clone gets in nor anything is left there."""
    copy, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("resnet_tf", "flags"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "results").mkdir()
    shutil.copy(ROOT / "results" / "zoo.csv", copy / "results")
    for name in ("cifar_resnet20_v1", "cifar_resnet110_v1", "cifar_resnet164_v2"):  # those that are not there yet
        path = copy / "resnet_tf" / "models" / "cifar10" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index"]
    output([*pip, "--no-deps", "--no-build-isolation", f"--wheel-dir={built}", copy], built)
    (file,) = built.iterdir()
    return file


def test_the_wheel_holds_the_package_its_recipes_and_its_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        weights = {info.filename: info.compress_size for info in archive.infolist() if "/cifar10/" in info.filename}
        metadata = archive.read(f"resnet_tf-{resnet_tf.__version__}.dist-info/METADATA").decode()
    # Weights that come with the package, but for those of the deepest networks, beside all else.
    assert sum(weights.values()) < 10_000_000 and wheel.stat().st_size - sum(weights.values()) < 1_000_000
    assert "resnet_tf/models/cifar10/cifar_resnet20_v1.safetensors" in weights
    assert not [name for name in weights if "110" in name or "164" in name]
    assert "resnet_tf/models/zoo.csv" in held
    package = ROOT / "resnet_tf"
    files = [path for pattern in ("**/*.py", "**/py.typed", "serving/web/*") for path in package.glob(pattern)]
    recipes = [path for path in (ROOT / "flags").rglob("*") if path.is_file()]
    assert {path.suffix for path in recipes} == {".cfg", ".yaml", ".config"}  # recipes, grids, TensorFlow Serving's
    assert package / "serving" / "web" / "index.html" in files
    assert held >= {path.relative_to(ROOT).as_posix() for path in files}
    assert held >= {f"resnet_tf/recipes/{path.relative_to(ROOT / 'flags').as_posix()}" for path in recipes}
    information = f"resnet_tf-{resnet_tf.__version__}.dist-info"
    assert f"{information}/licenses/LICENSE" in held
    assert {name.split("/")[0] for name in held} == {"resnet_tf", information}
    assert "License-Expression: Apache-2.0" in metadata and f"Version: {resnet_tf.__version__}\n" in metadata


def test_the_wheel_lists_its_recipes_without_tensorflow(wheel, tmp_path):
    """Unpacked, with a module in the place of TensorFlow that fails, and one recipe more than the clone has."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    (tmp_path / "unpacked" / "resnet_tf" / "recipes" / "one_more.cfg").write_text("# One that only this copy has.\n")
    (tmp_path / "unpacked" / "tensorflow.py").write_text("raise RuntimeError('TensorFlow was imported')\n")
    listing = [sys.executable, "-m", "resnet_tf.train", "--list_recipes"]
    lines = output(listing, tmp_path, PYTHONPATH=str(tmp_path / "unpacked")).splitlines()
    assert {line.split()[0] for line in lines} == {path.stem for path in (ROOT / "flags").glob("*.cfg")} | {"one_more"}


@pytest.mark.slow
def test_the_installed_wheel_trains_and_exports_where_there_is_no_clone(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python, program = (tmp_path / "venv" / "bin" / name for name in ("python", "resnet-tf"))
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = pathlib.Path(output([python, "-c", find], tmp_path).strip())
    # This environment's packages, but not what its own .pth files lead to: the clone, where that is installed editable.
    packages = [path for path in sys.path if pathlib.Path(path).name in ("site-packages", "dist-packages")]
    (site / "packages.pth").write_text("\n".join(packages))
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    output([*pip, "--ignore-installed", wheel], tmp_path)

    where = "import resnet_tf; print(resnet_tf.__file__)"
    assert pathlib.Path(output([python, "-c", where], tmp_path).strip()).is_relative_to(site)
    listed = output([program, "train", "--list_recipes"], tmp_path).splitlines()
    assert {line.split()[0] for line in listed} == {path.stem for path in (ROOT / "flags").glob("*.cfg")}

    trained = output([program, "train", "--recipe=demo", "--smoke", "--out=run"], tmp_path, **QUIET)
    assert json.loads(trained.splitlines()[-1])["run"] == "run"
    output([program, "export", "--run=run", "--out=model"], tmp_path, **QUIET)
    load = (
        "import tensorflow as tf; model = tf.saved_model.load('model/1');"
        "png = tf.io.encode_png(tf.zeros([8, 8, 3], tf.uint8));"
        "answer = model.signatures['serving_default'](image_bytes=png[None]); print(answer['probabilities'].shape)"
    )
    assert output([python, "-c", load], tmp_path, **QUIET).strip() == "(1, 10)"


def test_importing_the_package_is_quick_and_leaves_tensorflow_alone(tmp_path):
    """Some 0.02 s; the bound is for slow machines, in time of the processor, which what else runs does not change."""
    code = (
        "import sys, time; started = time.process_time(); import resnet_tf; seconds = time.process_time() - started;"
        "print(seconds, *{'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    )
    answers = [output([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(ROOT)).split() for _ in range(2)]
    assert all(modules == [] for _, *modules in answers)
    assert min(float(seconds) for seconds, *_ in answers) < 0.2


def test_version_and_licence_are_the_same_wherever_they_stand():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (.+), (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.groups() == (resnet_tf.__version__, str(citation["date-released"]))
    assert citation["version"] == resnet_tf.__version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()


def test_every_extra_that_is_named_exists_and_has_its_weight():
    extras = set(PROJECT["optional-dependencies"])
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(extras)
    patterns = ("*.md", "docs/*.md", "resnet_tf/**/*.py", "pyproject.toml", "Dockerfile")
    documents = [path for pattern in patterns for path in ROOT.glob(pattern)]
    named = [
        (document.name, name)
        for document in documents
        for names in re.findall(r"(?:'\.|resnet_tf)\[([a-z,]+)\]", document.read_text())
        for name in names.split(",")
    ]
    assert len(named) > 10 and {name for _, name in named} <= extras, named


def test_images_copy_what_is_there_and_pin_versions_that_the_package_accepts():
    for file in (ROOT / "Dockerfile", ROOT / "docker" / "serving.Dockerfile"):
        lines = [line.split() for line in file.read_text().splitlines() if line.startswith("COPY ")]
        named = [word for _, *words, _ in lines for word in words if not word.startswith(("--", "$"))]
        assert named and all((ROOT / name).exists() for name in named)
    installed = re.search(r"'\.\[([a-z,]+)\]'", (ROOT / "Dockerfile").read_text())[1].split(",")
    extras = PROJECT["optional-dependencies"]
    wanted = map(Requirement, [*PROJECT["dependencies"], *(text for name in installed for text in extras[name])])
    constraints = (ROOT / "docker" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in constraints if not line.startswith("#"))
    for requirement in wanted:
        assert pins[requirement.name.lower().replace("_", "-")] in requirement.specifier, requirement
