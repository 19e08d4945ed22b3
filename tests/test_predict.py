"""Prediction as it is used: files, folders and lists in, tables, CSV and JSON out, by every format and by servers."""

import base64
import contextlib
import csv
import http.server
import importlib.util
import io
import json
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from files import picture
from PIL import Image, features

from resnet_tf import benchmark, export, predict, train
from resnet_tf.bench import inference as speed
from resnet_tf.bench import timed
from resnet_tf.errors import InputError
from resnet_tf.serving import client, runtimes, watch
from resnet_tf.serving import predict as serving

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

CLASSES = 10
SIZES = [(16, 16), (41, 23), (30, 64), (16, 16), (37, 37)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A version in every format, which scales the shorter side before it crops."""
    folder = tmp_path_factory.mktemp("predict")
    flags = [
        "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--train_steps=2",
        "--pad=0", f"--out={folder}/run",
    ]  # fmt: skip
    assert train.main(flags) == 0
    formats = "--format=savedmodel,tflite,onnx,keras"
    assert export.main([f"--run={folder}/run", f"--out={folder}/model", formats]) == 0
    return folder / "model"


@pytest.fixture(scope="module")
def kinds(model):
    """What --model takes."""
    files = [model / "1" / f"model{suffix}" for suffix in runtimes.FILES]
    if importlib.util.find_spec("onnxruntime") is None:
        files.remove(model / "1" / "model.onnx")
    return [model, *files, model.parent / "run"]


@pytest.fixture(scope="module")
def served(model):
    return runtimes.load(model)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for index, size in enumerate(SIZES):
        form, suffix = ("JPEG", "JPG") if index % 2 else ("PNG", "png")
        (folder / ("deep/er" if index > 2 else "") / f"{index}.{suffix}").write_bytes(picture(index, form, size))
    (folder / ".hidden" / "x.png").write_bytes(picture(9))
    (folder / "notes.txt").write_text("no image")
    return folder


def names(photos):
    return [str(photos / name) for name in ("0.png", "1.JPG", "2.png", "deep/er/3.JPG", "deep/er/4.png")]


@pytest.fixture(scope="module")
def signature(model):
    return runtimes.load_signature(model)


def answered(flags, capsys, code=0):
    """What a command prints to stdout, line by line, and to stderr."""
    capsys.readouterr()
    assert predict.main([str(flag) for flag in flags]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out.splitlines(), captured.err


def refused(flags, capsys):
    lines, errors = answered(flags, capsys, 1)
    last = errors.strip().splitlines()[-1]
    assert lines == [] and last.startswith("error: ")
    return last


# --- Formats agree ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", runtimes.FILES)
def test_files_answer_as_the_saved_model(model, served, photos, suffix):
    """The same pixels by the same view; what remains is each library's arithmetic in float32."""
    pytest.importorskip("onnxruntime") if suffix == ".onnx" else None
    expected = serving.classify_files(served, names(photos), batch=3)
    filed = serving.classify_files(runtimes.load(model / "1" / f"model{suffix}", 10), names(photos), batch=3)
    for (path, best, _), (other, all_classes, _) in zip(expected, filed, strict=True):
        assert path == other and len(best) == 5 and len(all_classes) == CLASSES
        found = dict(all_classes)
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)
        for name, score in best:
            assert score == pytest.approx(found[name], abs=1e-5)


def test_frozen_model_answers_as_it_is(model, served, photos):
    contents = [(photos / "0.png").read_bytes(), (photos / "1.JPG").read_bytes()]
    frozen = runtimes.SavedModel(model, frozen=True)
    for one, other in zip(served.classify(contents), frozen.classify(contents), strict=True):
        np.testing.assert_allclose([score for _, score in one], [score for _, score in other], atol=1e-5)
    with pytest.raises(runtimes.Refused):
        frozen.classify([b"no image"])


def encoded(form, suffix, folder):
    """A file of one colour, which every format stores without visible loss; None where none can be written here."""
    if form == "HEIF":
        if importlib.util.find_spec("pillow_heif") is None:
            return None
        importlib.import_module("pillow_heif").register_heif_opener()
    elif form == "AVIF" and not features.check("avif"):
        return None
    path = folder / f"photo{suffix}"
    Image.new("RGB", (40, 24), (200, 120, 40)).save(path, form)
    return path


def test_every_kind_of_model_takes_every_format(kinds, tmp_path, capsys):
    """Within 2e-2 of the PNG: lossy formats move a colour by a level or two, of which this network feels little."""
    suffixes = {"PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "HEIF": ".heic", "AVIF": ".avif"}
    written = {form: encoded(form, suffix, tmp_path) for form, suffix in suffixes.items()}
    files = {form: path for form, path in written.items() if path}
    for kind in kinds:
        out, _ = answered([f"--model={kind}", "--top_k=5", "--format=jsonl", *files.values()], capsys)
        *lines, _ = map(json.loads, out)
        png, *others = ({p["class"]: p["probability"] for p in line["predictions"]} for line in lines)
        for form, other in zip(list(files)[1:], others, strict=True):
            assert png == pytest.approx(other, abs=2e-2), (form, kind)
    if len(files) < len(suffixes):
        pytest.skip(f"no {', '.join(suffixes.keys() - files.keys())} can be written here; the others are right")


def test_a_run_answers_as_its_export(model, served, photos, capsys):
    """The same weights, view and arithmetic, in another graph."""
    run = model.parent / "run"
    for loaded in (runtimes.load(run, 10), runtimes.Run(run, 10)):
        found = serving.classify_files(loaded, names(photos), batch=2)
        for (path, best, _), (other, all_classes, _) in zip(served_answers(served, photos), found, strict=True):
            assert path == other and dict(best) == pytest.approx(dict(all_classes[:5]), abs=1e-5)
    by_model, _ = answered([f"--model={run}", photos], capsys)
    by_run, _ = answered([f"--run={run}", photos], capsys)
    assert by_model == by_run and json.loads(by_run[-1])["model"] == str(run)
    assert "--weights=ema" in refused([f"--run={run}", "--weights=ema", photos], capsys)
    manifest = run / "manifest.yaml"
    (bare := photos.parent / "bare").mkdir(exist_ok=True)
    shutil.copy(manifest, bare)
    assert f"--model={bare}: no checkpoint yet" in refused([f"--model={bare}", photos], capsys)
    assert f"--run={bare}: no checkpoint yet" in refused([f"--run={bare}", photos], capsys)


def served_answers(served, photos):
    return list(serving.classify_files(served, names(photos), batch=3))


# --- Files in, answers out -------------------------------------------------------------------------------------------


def test_folders_patterns_and_lists(photos, monkeypatch):
    assert serving.find_images([str(photos)]) == names(photos)
    assert serving.find_images([f"{photos}/*.png", f"{photos}/deep/**/*.JPG"]) == [names(photos)[i] for i in (0, 2, 3)]
    assert serving.find_images(["-", "absent.png"], [f"{photos}/deep\n", "\n"]) == [*names(photos)[3:], "absent.png"]
    odd = photos / "[0]"
    odd.mkdir()
    (odd / "a.png").write_bytes(picture(0))
    assert serving.find_images([str(odd)]) == [str(odd / "a.png")]  # a folder of that name, not a pattern
    shutil.rmtree(odd)
    with pytest.raises(InputError, match="matches no file"):
        serving.find_images([f"{photos}/*.gif"])
    with pytest.raises(InputError, match="standard input"):
        serving.find_images(["-"], [])
    (photos / "empty").mkdir()
    with pytest.raises(InputError, match="empty: a folder without images"):
        serving.find_images([str(photos), f"{photos}/empty"])
    (photos / "empty").rmdir()


def test_csv_and_json_lines_hold_every_file(model, photos, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes((photos / "0.png").read_bytes()[:60])
    files = [photos, bad, photos / "notes.txt", tmp_path / "absent.jpg"]
    use = [f"--model={model}", "--top_k=2"]
    out, errors = answered([*use, "--batch_size=2", f"--out={tmp_path}/a.csv", *files], capsys)
    result = json.loads(out[-1])
    assert len(out) == 1 and set(result) == {"model", "images", "failed", "classes", "out"}
    assert (result["images"], result["failed"], sum(result["classes"].values())) == (5, 3, 5)
    assert errors.count("warning: ") == 3 and f"{bad}: damaged or truncated" in errors
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2"] * 5 + [""] * 3
    assert [row["file"] for row in rows[:10:2]] == names(photos) and "No such file" in rows[-1]["error"]

    first = [row["class"] for row in rows if row["rank"] == "1"]
    assert result["classes"] == {name: first.count(name) for name in first}

    out, _ = answered([*use, "--format=jsonl", *files], capsys)
    *lines, last = map(json.loads, out)
    assert last == {name: value for name, value in result.items() if name != "out"}
    assert [line["file"] for line in lines[:5]] == names(photos)
    for line, first, second in zip(lines, rows[:10:2], rows[1:10:2], strict=False):
        assert [found["class"] for found in line["predictions"]] == [first["class"], second["class"]]
        assert [f"{found['probability']:.6f}" for found in line["predictions"]] == [
            first["probability"], second["probability"]
        ]  # fmt: skip
    assert [set(line) for line in lines[5:]] == [{"file", "error"}] * 3
    assert not list(tmp_path.glob(".*.partial"))


def test_bad_input_is_one_line(model, photos, tmp_path, capsys, monkeypatch):
    use = f"--model={model}"
    good = photos / "0.png"
    assert f"--model={tmp_path}/absent" in refused([f"--model={tmp_path}/absent", good], capsys)
    assert "no SavedModel" in refused([f"--model={tmp_path}", good], capsys)
    assert "notes.txt" in refused([f"--model={photos}/notes.txt", good], capsys)
    alone = tmp_path / "model.tflite"
    alone.write_bytes(b"what")
    assert "model.json is missing" in refused([f"--model={alone}", good], capsys)
    shutil.copy(model / "1" / "model.json", tmp_path)
    assert f"--model={alone}: damaged" in refused([f"--model={alone}", good], capsys)
    assert "none of 1 files" in refused([use, photos / "notes.txt"], capsys)
    assert "no files were named" in refused([use], capsys)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "standard input" in refused([use, "-"], capsys)
    assert "--top_k=7" in refused([use, "--top_k=7", good], capsys)
    assert "--out=" in refused([use, f"--out={tmp_path}/no/x.csv", good], capsys)
    assert "--model, --run and --server are not set" in refused([good], capsys)
    assert "--model and --run are both set" in refused([use, "--run=x", good], capsys)
    assert "--weights" in refused([use, "--weights=ema", good], capsys)
    assert "--watch: no folder to watch" in refused([use, "--watch", good], capsys)
    assert "--model_name" in refused(["--server=localhost:1", good], capsys)
    assert "--timeout" in refused([use, "--timeout=3", good], capsys)
    assert "ftp://x" in refused(["--server=ftp://x", "--model_name=m", good], capsys)


def test_a_table_says_file_class_and_confidence(model, photos, capsys):
    out, _ = answered([f"--model={model}", "--top_k=2", photos / "0.png"], capsys)
    header, row, _ = out
    assert header.split() == ["file", "class", "confidence", "next"]
    file, name, confidence, second, less = row.split()
    assert file == str(photos / "0.png") and float(confidence) > float(less) and name != second


# --- Watching --------------------------------------------------------------------------------------------------------


def test_a_file_is_new_once_it_is_complete(tmp_path):
    there = tmp_path / "there.png"
    there.write_bytes(b"old")
    watching = watch.Watch([str(tmp_path), str(tmp_path / "missing")], [str(there)])
    file = tmp_path / "deep" / "a.JPG"
    file.parent.mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"hidden")
    (tmp_path / "empty.png").write_bytes(b"")
    assert watching.look() == []
    file.write_bytes(b"half")
    assert watching.look() == []
    file.write_bytes(b"half and more")  # still being written
    assert watching.look() == []
    assert watching.look() == [str(file)]
    assert watching.look() == []
    there.write_bytes(b"changed")
    os.utime(there, ns=(1, 1))
    file.unlink()
    assert watching.look() == [] and watching.look() == [str(there)]
    shutil.rmtree(tmp_path)
    assert watching.look() == []


@pytest.mark.parametrize("form", ["csv", "jsonl", "table"])
def test_watching_ends_with_a_signal_and_whole_lines(form, model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS", 0.05)
    folder, out = tmp_path / "photos", tmp_path / ("a.txt" if form == "table" else f"a.{form}")
    folder.mkdir()
    failures = []

    def feed():
        try:
            wait_for(lambda: out.exists())  # written once the named files, none here, are done
            for index in range(2):
                (folder / f"{index}.png").write_bytes(picture(index))
                wait_for(lambda index=index: f"{index}.png" in out.read_text())
            (folder / "bad.png").write_bytes(picture(3)[:60])
            wait_for(lambda: "bad.png" in out.read_text())
        except Exception as error:
            failures.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=feed)
    thread.start()
    lines, errors = answered([f"--model={model}", "--top_k=1", "--watch", f"--out={out}", folder], capsys)
    thread.join()
    assert not failures
    result = json.loads(lines[-1])
    assert (len(lines), result["images"], result["failed"]) == (1, 2, 1)
    assert f"watching {folder}" in errors and "bad.png: damaged or truncated" in errors
    text = out.read_text()
    assert text.endswith("\n") and len(text.splitlines()) == (3 if form == "jsonl" else 4)
    if form == "jsonl":
        assert [pathlib.Path(json.loads(line)["file"]).name for line in text.splitlines()] == [
            "0.png", "1.png", "bad.png"
        ]  # fmt: skip


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    from resnet_tf import files

    path = tmp_path / "a.csv"
    path.write_bytes(b"whole\n")
    opened = open

    class Full(io.FileIO):
        def write(self, content):
            return super().write(content[:3])

    monkeypatch.setattr(files, "open", lambda path, mode, buffering: Full(path, mode.replace("b", "")), raising=False)
    with pytest.raises(OSError, match="No space"):
        files.append(path, b"more and more\n")
    assert opened(path, "rb").read() == b"whole\n"


# --- TensorFlow Serving ----------------------------------------------------------------------------------------------
# No server binary is needed: these two speak its documented protocol and answer by the SavedModel itself.


@contextlib.contextmanager
def rest_server(signature):
    """The REST interface: /v1/models/NAME for the state, :predict with rows of instances."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != "/v1/models/digits":
                return self._say(404, {"error": f"Could not find any versions of model {self.path[11:]}"})
            status = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            return self._say(200, {"model_version_status": [status]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/models/digits:predict" and body["signature_name"] == "serving_default"
            encoded = [base64.b64decode(row["image_bytes"]["b64"], validate=True) for row in body["instances"]]
            try:
                outputs = signature(image_bytes=tf.constant(encoded))
            except tf.errors.InvalidArgumentError as error:
                return self._say(400, {"error": error.message})
            columns = {
                name: value.numpy().astype("U" if name == "classes" else "f4").tolist()
                for name, value in outputs.items()
            }
            rows = zip(*columns.values(), strict=True)
            return self._say(200, {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]})

        def _say(self, code, content):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def grpc_server(signature):
    """PredictionService.Predict and ModelService.GetModelStatus."""
    import grpc
    from tensorflow_serving.apis import (
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
        def GetModelStatus(self, request, context):
            if request.model_spec.name != "digits":
                context.abort(
                    grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}"
                )
            answer = get_model_status_pb2.GetModelStatusResponse()
            answer.model_version_status.add(version=1, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)
            return answer

        def Predict(self, request, context):
            assert request.model_spec.name == "digits" and request.model_spec.signature_name == "serving_default"
            try:
                outputs = signature(image_bytes=tf.constant(tf.make_ndarray(request.inputs["image_bytes"])))
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            answer = predict_pb2.PredictResponse()
            for name, value in outputs.items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
            return answer

    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"grpc://localhost:{port}"
    server.stop(None).wait()


def test_configuration_of_the_server():
    """What its definition reads; the definitions of the other two files are in no package."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    text = (pathlib.Path(__file__).parents[1] / "flags" / "serving" / "models.config").read_text()
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("resnet", "/models/resnet", "tensorflow")


@pytest.mark.parametrize("serve", [rest_server, grpc_server])
def test_a_server_answers_as_the_model_it_serves(serve, model, signature, photos, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    # Its header is whole, so that it is the server who finds the damage and refuses the batch.
    bad.write_bytes((photos / "2.png").read_bytes()[:400])
    files = [photos, bad]
    local, _ = answered([f"--model={model}", "--format=jsonl", *files], capsys)
    with serve(signature) as address:
        use = [f"--server={address}", "--model_name=digits"]
        remote, errors = answered([*use, "--format=jsonl", "--batch_size=4", *files], capsys)
        assert [json.loads(line).get("file") for line in remote] == [*names(photos), str(bad), None]
        for one, other in zip(local[:5], remote[:5], strict=True):
            expected = {answer["class"]: answer["probability"] for answer in json.loads(one)["predictions"]}
            found = {answer["class"]: answer["probability"] for answer in json.loads(other)["predictions"]}
            assert found == pytest.approx(expected, abs=2e-6)  # batches of another size, and six decimals
        assert f"{bad}: damaged or truncated image" in errors
        line = refused([f"--server={address}", "--model_name=other", photos], capsys)
        assert "--model_name=other" in line and "Could not find any versions" in line
    assert f"--server={address}: cannot be reached" in refused([*use, photos], capsys)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_silent_server_is_not_waited_for(scheme, photos, capsys):
    import socket

    with socket.create_server(("localhost", 0)) as silent:
        address = f"{scheme}://localhost:{silent.getsockname()[1]}"
        line = refused([f"--server={address}", "--model_name=m", "--timeout=0.3", photos], capsys)
    assert f"--server={address}: no answer in 0.3 s (--timeout)" in line


def test_answers_before_a_server_is_lost_are_kept(signature, photos, tmp_path, capsys, monkeypatch):
    calls = []
    classify = client.Rest.classify

    def once(self, encoded):
        calls.append(len(encoded))
        if len(calls) > 1:
            raise InputError("--server=x: cannot be reached")
        return classify(self, encoded)

    monkeypatch.setattr(client.Rest, "classify", once)
    with rest_server(signature) as address:
        flags = [f"--server={address}", "--model_name=digits", "--batch_size=3", f"--out={tmp_path}/a.jsonl", photos]
        assert "3 of 5 files were done before" in refused(flags, capsys)
    kept = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [answer["file"] for answer in kept] == names(photos)[:3]


# --- OpenVINO --------------------------------------------------------------------------------------------------------


def test_openvino_answers_as_onnxruntime(model, photos, last_json):
    """Both compute in float32, in another order."""
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    pytest.importorskip("onnxruntime")
    file = model / "1" / "model.onnx"
    ours, theirs = runtimes.load(file, runtime="openvino"), runtimes.load(file)
    rng = np.random.default_rng(0)
    for count in (3, 1):  # a batch of any size
        pixels = rng.integers(0, 256, (count, ours.size, ours.size, 3)).astype(ours.dtype)
        np.testing.assert_allclose(ours.probabilities(pixels), theirs.probabilities(pixels), atol=1e-5)
    classes = []
    for flags in (["--runtime=openvino"], []):
        assert predict.main([f"--model={file}", str(photos), *flags]) == 0
        classes.append(last_json()["classes"])
    assert classes[0] == classes[1]


def test_openvino_needs_its_library_and_an_onnx_file(model, photos, capsys, monkeypatch):
    line = refused([f"--model={model}", str(photos), "--runtime=openvino"], capsys)
    assert f"--runtime=openvino: it runs .onnx files, not --model={model}" in line
    monkeypatch.setitem(sys.modules, "openvino", None)
    file = model / "1" / "model.onnx"
    if file.exists():
        line = refused([f"--model={file}", str(photos), "--runtime=openvino"], capsys)
        assert "pip install 'resnet_tf[openvino]'" in line


# --- Parts -----------------------------------------------------------------------------------------------------------


def test_parts_are_together_what_one_prediction_is(model, photos, tmp_path, last_json, capsys, monkeypatch):
    flags = [f"--model={model}", str(photos)]
    assert predict.main([*flags, f"--out={tmp_path}/whole.csv"]) == 0
    whole, lines = last_json(), []
    for part in ("1/2", "2/2"):
        assert predict.main([*flags, f"--out={tmp_path}/part.csv", f"--shard={part}"]) == 0
        done = last_json()
        file = tmp_path / f"part-0000{part[0]}-of-00002.csv"
        assert (done["out"], done["shard"]) == (str(file), part)
        assert json.loads(file.with_name(f"{file.name}.done.json").read_text()) == done
        lines.append(file.read_text().splitlines())
        whole["images"] -= done["images"]
        whole["failed"] -= done["failed"]
    assert (whole["images"], whole["failed"]) == (0, 0) and lines[0][0] == lines[1][0]
    expected = (tmp_path / "whole.csv").read_text().splitlines()
    assert sorted(lines[0][1:] + lines[1][1:]) == sorted(expected[1:])
    # Done parts are not done again, not even loaded; other files are not mistaken for them.
    monkeypatch.setattr("resnet_tf.serving.runtimes.load", None)
    before = file.stat().st_mtime_ns
    assert predict.main([*flags, f"--out={tmp_path}/part.csv", "--shard=2/2"]) == 0 and last_json() == done
    assert file.stat().st_mtime_ns == before
    assert "another model or other files" in refused(
        [f"--model={model}", str(photos / "0.png"), f"--out={tmp_path}/part.csv", "--shard=2/2"], capsys
    )


def test_a_part_that_is_interrupted_leaves_nothing_and_an_empty_one_is_done(
    model, photos, tmp_path, last_json, capsys, monkeypatch
):
    flags = [f"--model={model}", str(photos), f"--out={tmp_path}/part.csv", "--batch_size=1"]
    assert predict.main([*flags, "--shard=9/9"]) == 0
    assert last_json()["files"] == 0 and len(list(tmp_path.iterdir())) == 2
    calls, classify = [], runtimes.SavedModel.classify

    def once(self, encoded):
        calls.append(len(encoded))
        if len(calls) > 1:
            raise InputError("lost")
        return classify(self, encoded)

    with monkeypatch.context() as patch:
        patch.setattr(runtimes.SavedModel, "classify", once)
        assert "lost; 1 of" in refused([*flags, "--shard=1/1"], capsys)
    assert len(list(tmp_path.iterdir())) == 2
    assert predict.main([*flags, "--shard=1/1"]) == 0 and last_json()["images"] > 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2"])
def test_what_is_no_part_is_named(shard, model, photos, tmp_path, capsys):
    line = refused([f"--model={model}", str(photos), f"--out={tmp_path}/part.csv", f"--shard={shard}"], capsys)
    assert f"--shard={shard}: not I/N" in line and not list(tmp_path.iterdir())


# --- Speed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in timed.OURS if "xla" not in name and "int8" not in name])
def test_what_is_timed_answers(name, model, photos, tmp_path):
    for library in ("onnxruntime", "openvino"):
        if library.removesuffix("runtime") in name:
            pytest.importorskip(library)
    folder = speed._write_images(
        tmp_path / "images", [(photos / "0.png").read_bytes()] * 2, json.loads((model / "1" / "model.json").read_text())
    )
    call, take, versions, seconds = timed.OURS[name][0](str(model / "1"), folder, "float32")
    answers = call(take(1, 3))  # goes round the two images
    assert len(answers) == 3 and "tensorflow" in versions and seconds >= 0
    if name == "decoding":
        assert np.array_equal(answers[0], np.load(folder / "pixels.npy")[0])
    elif "savedmodel" not in name or "pixels" in name:
        np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    else:
        assert [len(best) for best in answers] == [5] * 3


def test_inference_benchmark(model, photos, tmp_path, capsys):
    version = tmp_path / "model"  # of one format, since each is a process that imports TensorFlow
    version.mkdir()
    for file in ("model.json", "model.onnx"):
        shutil.copy(model / "1" / file, version)
    flags = ["inference", f"--data_dir={photos}", "--repeats=2", "--steps=2", "--batches=1,3"]
    small = ["--peers=", f"--results={tmp_path}/speed.csv"]
    capsys.readouterr()
    assert benchmark.main([*flags, *small, f"--model_dir={version}"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = list(csv.DictReader((tmp_path / "speed.csv").read_text().splitlines()))
    assert [(row["batch"], row["format"]) for row in rows] == [("1", "onnx"), ("3", "onnx")]
    for row in rows:
        assert row["system"] == "ours" and row["model"] == "cifar_resnet8_v1" and row["ratio"] == ""
        assert 0 < float(row["p50_ms"]) <= float(row["p95_ms"]) <= float(row["p99_ms"])
        assert float(row["images_per_second"]) == pytest.approx(
            1000 * int(row["batch"]) / float(row["p50_ms"]), rel=0.02
        )
    assert result["ours"] == float(rows[0]["p50_ms"]) and "onnxruntime" in rows[0]["versions"]

    def refusal(*more):
        assert benchmark.main([*flags, *more]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert "--peers=keras_applications: it has no network like cifar" in refusal(
        f"--model_dir={model}", "--peers=keras_applications"
    )
    assert f"--model_dir={photos}" in refusal("--peers=", f"--model_dir={photos}")
    assert "--model is not used by --model_dir" in refusal("--peers=", f"--model_dir={model}", "--model=resnet50_v1b")
    assert "--formats=savedmodel_xla: not one of onnx, onnx_openvino, decoding" in refusal(
        "--peers=", f"--model_dir={version}", "--formats=onnx,savedmodel_xla"
    )
    assert "--activations is not used by --model_dir" in refusal(
        "--peers=", f"--model_dir={version}", "--activations=float16"
    )
    assert "--batches=0" in refusal("--peers=", "--batches=0")
    assert "--precision is not used by benchmark inference" in refusal("--peers=", "--precision=float16")


def test_ratio_is_how_many_times_faster_ours_is():
    calls = {"savedmodel": [[0.01, 0.02, 0.03], [0.02] * 3], "peer": [[0.03] * 3, [0.05] * 3]}
    rows = list(speed._rows(4, calls, ["savedmodel"], {"peer": "savedmodel"}))
    assert [row["ratio"] for row in rows] == ["", 2.0]  # of the rounds' 1.5 and 2.5
    assert (rows[0]["p50_ms"], rows[0]["images_per_second"]) == (20.0, 200.0)
    assert rows[0]["p99_ms"] == pytest.approx(np.percentile([10, 20, 20, 20, 20, 30], 99), abs=1e-3)


def test_timm_stands_beside_the_file_of_its_kind():
    assert speed._beside("timm_onnx", ["savedmodel", "tflite", "onnx"]) == "onnx"
    assert speed._beside("timm_compile", ["savedmodel", "savedmodel_pixels", "savedmodel_xla_pixels"]) == (
        "savedmodel_xla_pixels"
    )
    assert speed._beside("timm_onnx", ["savedmodel", "tflite"]) == "tflite"
    assert speed._beside("keras_applications", ["savedmodel", "onnx"]) == "savedmodel"
    assert (speed._name_of("timm", "resnet50_v1b"), speed._name_of("keras_predict", "resnet101_v2")) == (
        "resnet50", "ResNet101V2"
    )  # fmt: skip
    for peer, network in (("timm", "resnet50_v1"), ("keras_applications", "resnet18_v1b")):
        with pytest.raises(InputError, match=f"--peers={peer}"):
            speed._name_of(peer, network)
