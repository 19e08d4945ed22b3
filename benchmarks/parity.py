"""How far the answers of exported models are from the evaluation of their run: a table in Markdown, and JSON last.

    python benchmarks/parity.py RUN            exports RUN to every format and precision, and compares
    python benchmarks/parity.py read MODEL...  (what it starts) answers for images.npz with every file of each version

Every file is read in one fresh process, by its own runtime, which gets the images of the run's evaluation split. RUN is
one whose images are held in memory. Of the SavedModel the signature for encoded bytes is asked, with PNG.
"""

import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np

EXPORTS = {  # precision of weights: formats
    "float32": ("savedmodel", "tflite", "onnx", "keras"),
    "float16": ("savedmodel", "tflite", "onnx"),
    "bfloat16": ("savedmodel",),
    "int8": ("tflite", "onnx"),
}


def export_all(run, folder):
    """Every format and precision of a run: {precision: folder of the version}."""
    from resnet_tf import config
    from resnet_tf.serving import export

    folders = {}
    for precision, formats in EXPORTS.items():
        section = config.ExportConfig(run=str(run), out=str(folder / precision), format=formats, precision=precision)
        result = export.export(section)
        folders[precision] = folder / precision / str(result["version"])
    return folders


def evaluated(run):
    """Images that a run was evaluated on, uint8 [n, size, size, 3], labels [n], and its probabilities [n, classes]."""
    from resnet_tf.evaluation import metrics
    from resnet_tf.evaluation.logits import SplitLogits
    from resnet_tf.runs import devices, restore, run_data

    run, values, normalization = restore.load(run)
    source, _ = run_data.load(run.config)
    split = source.splits["validation" if "validation" in source.splits else "test"]
    runner = restore.build_runner(run, values, normalization, devices.make_strategy(1))
    logits = SplitLogits(runner, run.config.data, split).logits()
    return split.images, split.labels, metrics.probabilities(logits)


def read_all(folders, images, work):
    """What a fresh process makes of the files: {(precision, file): probabilities [n, classes]}."""
    np.savez(work / "images.npz", images=images)
    script = [sys.executable, __file__, "read", *map(str, folders.values())]
    subprocess.run(script, check=True, cwd=work, capture_output=True)
    answers = np.load(work / "answers.npz")
    precisions = {str(folder): precision for precision, folder in folders.items()}
    return {(precisions[key.split("|")[0]], key.split("|")[1]): answers[key] for key in answers.files}


def _read(folders):
    images, answers = np.load("images.npz")["images"], {}
    readers = {"saved_model.pb": _savedmodel, "model.tflite": _tflite, "model.onnx": _onnx, "model.keras": _keras}
    for folder in folders:
        for name, reader in readers.items():
            path = pathlib.Path(folder) / name
            if path.exists():
                answers[f"{folder}|{name}"] = reader(path, images)
    assert "resnet_tf" not in sys.modules  # the files need nothing of it
    np.savez("answers.npz", **answers)


def _savedmodel(path, images):
    import tensorflow as tf

    model = tf.saved_model.load(str(path.parent))
    png = tf.constant([tf.io.encode_png(image).numpy() for image in images])
    return model.signatures["serving_default"](image_bytes=png)["probabilities"].numpy()


def _tflite(path, images):
    import tensorflow as tf

    warnings.simplefilter("ignore")  # of its move to another package
    runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    return runner(images=images.astype(np.float32))["probabilities"]


def _onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": images.astype(np.float32)})[0]


def _keras(path, images):
    import keras

    return keras.models.load_model(path).predict(images.astype(np.float32), verbose=0)


def main():
    """Run the command."""
    if sys.argv[1] == "read":
        return _read(sys.argv[2:])
    from resnet_tf import files

    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        folders = export_all(sys.argv[1], work)
        images, labels, expected = evaluated(sys.argv[1])
        found = read_all(folders, images, work)
        rows = [_row(precision, name, folders, found[precision, name], expected, labels) for precision, name in found]
    top1 = float((expected.argmax(1) == labels).mean())
    print(f"{len(labels)} images; top-1 of the evaluation {top1:.4f}\n")
    print("| file | weights | MiB | largest difference of a probability | mean | top-1 |\n|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['file']} | {row['weights']} | {row['mib']:.2f} | {row['largest']:.1e} | {row['mean']:.1e} | "
            f"{row['top1']:.4f} |"
        )
    print(files.to_json({"run": sys.argv[1], "examples": len(labels), "top1": top1, "files": rows}))


def _row(precision, name, folders, found, expected, labels):
    path = folders[precision] / name
    parts = [path, *path.parent.glob("variables/*")] if name == "saved_model.pb" else [path]
    return {
        "file": "SavedModel" if name == "saved_model.pb" else name,
        "weights": precision,
        "mib": sum(part.stat().st_size for part in parts) / 2**20,
        "largest": float(np.abs(found - expected).max()),
        "mean": float(np.abs(found - expected).mean()),
        "top1": float((found.argmax(1) == labels).mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
