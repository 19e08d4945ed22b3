"""The server: TensorFlow Serving's JSON, uploads, the page in a browser; many at once, bad requests, and its end."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
import zlib
from concurrent import futures

import numpy as np
import pytest
from browser import browser
from files import picture
from PIL import Image

from resnet_tf import benchmark, config, export, predict, serve, train
from resnet_tf.bench import serving
from resnet_tf.errors import InputError
from resnet_tf.serving import predict as predicting
from resnet_tf.serving import runtimes

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from resnet_tf.serving import batching, gate, heat, servable, server

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, and its export in two formats, which scale the shorter side before they crop."""
    folder = tmp_path_factory.mktemp("serve")
    flags = [
        "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--train_steps=2",
        "--view=resize_crop", "--scale=20", "--resize=20", f"--out={folder}/run",
    ]  # fmt: skip
    assert train.main(flags) == 0
    assert export.main([f"--run={folder}/run", f"--out={folder}/model", "--format=savedmodel,tflite"]) == 0
    return folder


@contextlib.contextmanager
def running(path, **settings):
    """A server in a thread; yields it and its service."""
    settings = config.ServeConfig(model=str(path), port=0, **settings)
    bound, address = server.bind(settings.host, settings.port)
    model = servable.load(path)
    servable.warm_up(model)
    service = server.Service(settings, model, serve._explainer(path))
    served = server.Server(service, bound, address, settings.max_waiting)
    served.address = address
    thread = threading.Thread(target=served.serve_until_stopped)
    thread.start()
    try:
        wait_for(lambda: served.started)
        yield served, service
    finally:
        served.should_exit = True
        thread.join(20)
        bound.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def served(folder):
    """A server of the SavedModel, which lives through all that the tests send."""
    with running(folder / "model", max_megabytes=0.1, max_pixels=1_000_000, batch_size=16) as (one, service):
        one.service = service
        yield one


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def ask(served, method, path, body=None, headers=None):
    """Status, headers and JSON of a response."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(served.address).netloc, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        is_json = response.headers["content-type"] == "application/json"
        return response.status, response.headers, json.loads(content) if is_json else content
    finally:
        connection.close()


def post(served, content, path="/v1/models/model:predict"):
    status, _, answer = ask(served, "POST", path, content if isinstance(content, bytes) else json.dumps(content))
    return status, answer


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def upload(served, files, query=""):
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + content
        for name, content in files
    ]
    body = b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()])
    status, _, answer = ask(
        served, "POST", f"/classify{query}", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    return status, answer


def expected(path, contents, tmp_path):
    """What `predict` finds in images: a list of {class: probability}."""
    model, files = runtimes.load(path), []
    for index, content in enumerate(contents):
        files.append(tmp_path / f"{index}.png")
        files[-1].write_bytes(content)
    return [dict(best) for _, best, _ in predicting.classify_files(model, files)]


def bomb(width, height):
    """A PNG of 80 bytes that declares so many pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


TRUNCATED = picture(3, "JPEG", (64, 64))[:800]  # with a whole header


# --- TensorFlow Serving's JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "model/1/model.tflite", "run"])
def test_predict_asks_it_as_it_asks_tensorflow_serving(kind, folder, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(5):
        (photos / f"{index}.png").write_bytes(picture(index, "PNG", (130 + index, 100)))
    (photos / "bad.jpg").write_bytes(TRUNCATED)

    def answers(*flags):
        capsys.readouterr()
        assert predict.main([*flags, "--format=jsonl", str(photos)]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {line["file"]: line for line in lines[:-1]}, lines[-1]

    local, _ = answers(f"--model={folder / kind}")
    with running(folder / kind, model_name="digits", max_megabytes=0.06) as (one, _):  # all in one request are too many
        remote, last = answers(f"--server={one.address}", "--model_name=digits")
        assert predict.main([f"--server={one.address}", "--model_name=other", str(photos)]) == 1
    assert (last["images"], last["failed"]) == (5, 1) and local.keys() == remote.keys()
    for file, line in local.items():
        if "error" in line:
            assert "damaged or truncated" in remote[file]["error"]
            continue
        found = {best["class"]: best["probability"] for best in remote[file]["predictions"]}
        wanted = {best["class"]: best["probability"] for best in line["predictions"]}
        assert found == pytest.approx(wanted, abs=2e-6)  # batches of another size, and six decimals


def test_rows_columns_and_signatures(served, folder):
    images = [picture(0), picture(1, "JPEG", (20, 30))]
    status, rows = post(served, {"instances": [{"image_bytes": b64(image)} for image in images]})
    assert status == 200 and set(rows["predictions"][0]) == {"classes", "scores", "probabilities"}
    for body in ({"instances": list(map(b64, images))}, {"instances": list(map(b64, images)), "signature_name": ""}):
        assert post(served, body) == (200, rows)
    for inputs in (list(map(b64, images)), {"image_bytes": list(map(b64, images))}):
        status, columns = post(served, {"inputs": inputs}, "/v1/models/model/versions/1:predict")
        assert status == 200
        assert columns["outputs"]["scores"] == [row["scores"] for row in rows["predictions"]]
    status, features = post(served, {"signature_name": "features", "instances": list(map(b64, images))})
    assert status == 200 and np.shape(features["predictions"]) == (2, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3)).tolist()
    status, by_pixels = post(served, {"signature_name": "images", "instances": pixels})
    assert status == 200 and len(by_pixels["predictions"]) == 2
    for bad in ([[[300, 0, 0]]], [[["a"]]], [[[0.5, 0, 0]]], [[1, 2]], []):
        assert post(served, {"signature_name": "images", "instances": [bad]})[0] == 400


def test_state_and_signatures(served):
    state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/model", "/v1/models/model/versions/1"):
        assert ask(served, "GET", path)[::2] == (200, {"model_version_status": [state]})
    status, _, described = ask(served, "GET", "/v1/models/model/metadata")
    signatures = described["metadata"]["signature_def"]["signature_def"]
    assert status == 200 and described["model_spec"]["version"] == "1"
    assert set(signatures) == {"serving_default", "images", "features", "images_features"}
    from google.protobuf import json_format
    from tensorflow.core.protobuf import meta_graph_pb2

    parsed = json_format.ParseDict(signatures["serving_default"], meta_graph_pb2.SignatureDef())
    assert parsed.inputs["image_bytes"].tensor_shape.dim[0].size == -1
    for path in ("/v1/models/other", "/v1/models/model/versions/2", "/v1/models/other/metadata", "/v1/else", "/v2"):
        status, _, answer = ask(served, "GET", path)
        assert status == 404 and set(answer) == {"error"}


BAD = [  # body, status, words of the error
    (b"", 400, "JSON Parse Error"),
    (b"{", 400, "JSON Parse Error"),
    (b"\xff\xfe", 400, "JSON Parse Error"),
    (b"[" * 20_000, 400, "JSON Parse Error"),
    ([], 400, "not an object"),
    ({}, 400, 'Missing "inputs" or "instances"'),
    ({"instances": [b64(b"")], "inputs": []}, 400, "both"),
    ({"instances": []}, 400, "at least one"),
    ({"instances": {"image_bytes": 1}}, 400, "not a list"),
    ({"instances": ["photo.jpg"]}, 400, "instances[0]: not"),
    ({"instances": [{"b64": "%%"}]}, 400, "instances[0]: not base64"),
    ({"instances": [{"b64": "ab"}]}, 400, "not base64"),
    ({"instances": [{"b64": 3}]}, 400, "instances[0]"),
    ({"instances": [{"other": b64(b"")}]}, 400, "image_bytes"),
    ({"inputs": {"other": []}}, 400, "image_bytes"),
    ({"instances": [b64(b"")], "signature_name": "none"}, 400, "serving_default"),
    ({"instances": [b64(b"")], "signature_name": ["x"]}, 400, "serving_default"),
    ({"instances": [b64(b"")]}, 400, "image_bytes[0]: empty file"),
    ({"instances": [b64(picture(0)), b64(b"no image")]}, 400, "image_bytes[1]: not a JPEG"),
    ({"instances": [b64(picture(0)), b64(TRUNCATED)]}, 400, "image_bytes[1]: not a JPEG, PNG"),
    ({"instances": [b64(bomb(50_000, 50_000))]}, 400, "image_bytes[0]: 50000 x 50000 pixels; the limit is 1000000"),
    ({"instances": [b64(bytes(110_000))]}, 413, "110,000 bytes; the limit is 100,000"),
    (bytes(300_000), 413, "larger than"),
]


@pytest.mark.parametrize("body, status, words", BAD, ids=range(len(BAD)))
def test_a_bad_body_is_one_line_and_the_server_lives(body, status, words, served):
    found, answer = post(served, body)
    assert (found, set(answer)) == (status, {"error"}) and words in answer["error"] and "\n" not in answer["error"]
    assert post(served, {"instances": [b64(picture(0))]})[0] == 200


def test_wrong_names_and_methods(served):
    good = {"instances": [b64(picture(0))]}
    for path in ("/v1/models/other:predict", "/v1/models/model/versions/9:predict", "/v1/models/model:classify"):
        status, answer = post(served, good, path)
        assert status == 404 and set(answer) == {"error"}
    assert ask(served, "GET", "/v1/models/model:predict")[0] == 404
    assert ask(served, "GET", "/classify")[0] == 405
    assert ask(served, "GET", "/docs")[0] == 404


# --- Many at once ----------------------------------------------------------------------------------------------------


def test_two_hundred_at_once_are_answered_right(served, folder, tmp_path):
    """Bad ones among them fail alone, though they share batches; good ones are those of `predict`."""
    contents = [picture(index, "PNG", (17 + index % 5, 16)) for index in range(200)]
    wanted = expected(folder / "model", contents, tmp_path)
    before = served.service.batcher.batches

    def one(index):
        if index % 20 == 7:
            return post(served, {"instances": [b64(TRUNCATED)]})
        if index % 2:
            return post(served, {"instances": [b64(contents[index])]})
        return upload(served, [(f"{index}.png", contents[index])])

    with futures.ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(one, range(200)))
    for index, (status, answer) in enumerate(answers):
        if index % 20 == 7:
            assert (status, set(answer)) == (400, {"error"})
            continue
        assert status == 200
        if index % 2:
            (row,) = answer["predictions"]
            found = dict(zip(row["classes"], row["scores"], strict=True))
        else:
            found = {best["class"]: best["probability"] for best in answer["results"][0]["classes"]}
        assert found == pytest.approx(wanted[index], abs=1e-5)
    assert served.service.batcher.batches - before < 190  # they shared some


def test_a_client_that_leaves_takes_nothing_along(served):
    host = urllib.parse.urlsplit(served.address)
    body = json.dumps({"instances": [b64(picture(0))]}).encode()
    head = f"POST /v1/models/model:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in (head + body, head + body[:20], head[:20]):
        for _ in range(5):
            with socket.create_connection((host.hostname, host.port)) as connection:
                connection.sendall(sent)
        assert post(served, {"instances": [b64(picture(0))]})[0] == 200


def test_a_batch_is_of_one_kind_and_not_too_large():
    batches = []

    def run(kind, items):
        batches.append((kind, len(items)))
        if "bad" in items:
            raise runtimes.Refused(f"image_bytes[{items.index('bad')}]: bad")
        return {"x": np.array(items)}

    async def main():
        batcher = batching.Batcher(run, 4, 0.05)
        worker = asyncio.ensure_future(batcher.work())
        jobs = [("a", ["0"]), ("a", ["1", "2"]), ("a", ["bad"]), ("a", ["3"])]
        jobs += [("b", list("456789")), ("b", ["bad"] * 5)]
        results = await asyncio.gather(*(batcher.submit(*job) for job in jobs), return_exceptions=True)
        worker.cancel()
        batcher.close()
        return results

    results = asyncio.run(main())
    assert [list(one["x"]) for one in (results[0], results[1], results[3], results[4])] == [
        ["0"], ["1", "2"], ["3"], list("456789")
    ]  # fmt: skip
    assert str(results[2]) == "image_bytes[0]: bad" and str(results[5]) == "image_bytes[0]: bad"
    assert batches[0] == ("a", 4) and max(count for _, count in batches) == 4 and ("b", 2) in batches
    assert batching._shifted("image_bytes[1, 4]: not [7]", 32) == "image_bytes[33, 36]: not [7]"


def test_beyond_the_limit_requests_are_asked_to_come_again(monkeypatch):
    async def main():
        free, sent = asyncio.Event(), []

        async def app(scope, receive, send):
            await receive()
            await free.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        guarded = gate.Gate(app, 10, 2)

        def request(body, length=None):
            messages = [{"type": "http.request", "body": body}]

            async def receive():
                return messages.pop() if messages else await asyncio.Event().wait()

            async def send(message):
                sent.append(message)

            headers = [(b"content-length", str(length or len(body)).encode())]
            return guarded({"type": "http", "method": "POST", "headers": headers}, receive, send)

        waiting = [asyncio.ensure_future(request(b"x")) for _ in range(2)]
        await asyncio.sleep(0.01)
        await request(b"x")
        assert sent[0]["status"] == 503 and (b"retry-after", b"1") in sent[0]["headers"]
        assert b"busy" in sent[1]["body"]
        await request(b"x" * 11)
        await request(b"x", 10**9)  # refused by what it declares, unread
        assert [sent[2]["status"], sent[4]["status"]] == [413, 413]
        free.set()
        await asyncio.gather(*waiting)
        await request(b"x")
        assert [message["status"] for message in sent[6:]] == [200] * 3 and guarded._held == 0

        async def silent():
            await asyncio.Event().wait()

        async def answer(message):
            sent.append(message)

        sent.clear()
        scope = {"type": "http", "method": "POST", "headers": []}
        await guarded(scope, silent, answer)
        guarded.stopping.set()  # what has not arrived is given up
        await guarded(scope, silent, answer)
        assert [message["status"] for message in sent[::2]] == [408, 503]

    monkeypatch.setattr(gate, "_BODY_SECONDS", 0.05)
    monkeypatch.setattr(gate, "_LAST_SECONDS", 0.01)
    asyncio.run(main())


def test_images_are_counted(served, monkeypatch):
    two = {"instances": [b64(picture(0))] * 2}
    monkeypatch.setattr(server, "_MOST_TOGETHER", 1)
    assert post(served, two) == (413, {"error": "2 images in one request; the limit is 1"})
    monkeypatch.setattr(server, "_MOST_TOGETHER", 2)
    monkeypatch.setattr(server, "_MOST_HELD", 1)
    status, headers, answer = ask(served, "POST", "/v1/models/model:predict", json.dumps(two))
    assert (status, headers["retry-after"]) == (503, "1") and "busy: 0 images" in answer["error"]
    assert upload(served, [("a.png", picture(0)), ("b.png", picture(1))])[0] == 503
    assert upload(served, [("a.png", picture(0))])[0] == 200


# --- Uploads and heat maps -------------------------------------------------------------------------------------------


def test_uploads(served, folder, tmp_path):
    content = picture(0, "PNG", (40, 24))
    (wanted,) = expected(folder / "model", [content], tmp_path)
    status, answer = upload(served, [("a.png", content), ("b.txt", b"no image"), ("c.jpg", TRUNCATED)])
    first, second, third = answer["results"]
    assert status == 200 and first["file"] == "a.png" and set(first) == {"file", "classes"}
    assert {best["class"]: best["probability"] for best in first["classes"]} == pytest.approx(wanted, abs=2e-6)
    assert second["error"].startswith("b.txt: not a") and third["error"] == "c.jpg: damaged or truncated image"
    assert upload(served, [("c.jpg", TRUNCATED)])[0] == 400
    assert upload(served, [("a.png", bytes(110_000))])[0] == 413
    assert "50000 x 50000" in upload(served, [("a.png", bomb(50_000, 50_000))])[1]["error"]
    for path, body, headers in (
        ("/classify", b"", {}),
        ("/classify", b"abc", {"Content-Type": "multipart/form-data; boundary=x"}),
        ("/classify", b"abc", {"Content-Type": "multipart/form-data"}),
    ):
        status, _, answer = ask(served, "POST", path, body, headers)
        assert status == 400 and set(answer) == {"error"}


@pytest.mark.parametrize("kind", ["model", "run"])
def test_heat_maps_of_a_class(kind, folder):
    with running(folder / kind) as (one, _):
        content = picture(0, "PNG", (40, 80))
        status, answer = upload(one, [("a.png", content)], "?grad_cam=1")
        (result,) = answer["results"]
        assert status == 200 and result["grad_cam_class"] == result["classes"][0]["class"]
        head, data = result["grad_cam"].split(",")
        assert head == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (80, 40)
        status, answer = upload(one, [("a.png", content)], "?grad_cam=1&class_name=class3")
        assert status == 200 and answer["results"][0]["grad_cam_class"] == "class3"
        status, answer = upload(one, [("a.png", content)], "?grad_cam=1&class_name=none")
        assert (status, answer) == (400, {"error": "class_name: no class 'none'"})
        assert ask(one, "GET", "/info")[2]["grad_cam"] is True


def test_without_the_network_there_is_a_reason(folder):
    with running(folder / "model/1/model.tflite") as (one, _):
        info = ask(one, "GET", "/info")[2]
        assert info["grad_cam"] is False and "SavedModel or a run folder" in info["reason"]
        status, answer = upload(one, [("a.png", picture(0))], "?grad_cam=1")
        assert status == 400 and info["reason"] in answer["error"]


def test_heat_lies_where_the_network_looked():
    """The square that it sees is the central 3/4 of the height; the left half of it is hot."""
    pixels = np.full((40, 100, 3), 128, np.uint8)
    drawn = np.asarray(Image.open(io.BytesIO(heat.overlay(pixels, np.array([[1.0, 0], [1, 0]], np.float32), 0.75))))
    assert drawn.shape == pixels.shape
    brightness = drawn.astype(float).mean(axis=2)
    assert brightness[20, 38] > 170 and brightness[20, 62] < 80  # light of inferno over grey; its black over grey
    assert brightness[20, 5] == pytest.approx(45, abs=6) and brightness[1, 50] == pytest.approx(45, abs=6)  # dimmed
    cold = np.asarray(Image.open(io.BytesIO(heat.overlay(pixels, np.zeros((2, 2), np.float32), 0.75))))
    assert cold[20, 50].mean() == pytest.approx(128, abs=3)
    large = heat.overlay(np.zeros((3000, 1500, 3), np.uint8), np.ones((2, 2), np.float32), 1)
    assert Image.open(io.BytesIO(large)).size == (512, 1024)


# --- The page --------------------------------------------------------------------------------------------------------


def test_page_in_a_browser(served, tmp_path):
    files = [tmp_path / "a rather long name of a photo, as telephones and people give them 2026-11-30.png"]
    files[0].write_bytes(picture(0, "PNG", (40, 60)))
    files.append(tmp_path / "wide.jpg")
    files[1].write_bytes(picture(1, "JPEG", (20, 180)))
    status, headers, page = ask(served, "GET", "/")
    assert status == 200 and "default-src 'none'" in headers["content-security-policy"]
    assert not [word for word in (b"http://", b"https://", b"//cdn") if word in page]
    with browser(tmp_path / "profile") as opened:
        for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
            opened.open(served.address, width, 900, scheme)
            choose(opened, files)
            wait_for(lambda: opened.evaluate("done") == 2)
            cards = "[...document.querySelectorAll('.card')]"
            assert opened.evaluate(f"{cards}.map(card => card.querySelectorAll('.row').length)") == [5, 5]
            assert "%" in opened.evaluate("document.querySelector('.words').textContent")
            opened.evaluate("document.querySelector('.row').click()")
            wait_for(lambda: opened.evaluate("!!document.querySelector('figcaption:not([hidden])')"))
            wait_for(lambda: opened.evaluate("document.querySelector('img').naturalWidth == 60"))
            assert opened.evaluate("document.querySelector('img').src.startsWith('data:image/jpeg')")
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            dark = opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
            assert dark == (scheme == "dark")
            assert not complaints(opened)
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(TRUNCATED)
        choose(opened, [bad])
        wait_for(lambda: opened.evaluate("done") == 3)
        assert opened.evaluate("document.querySelector('.error').textContent") == "Damaged or truncated image."
        bad.write_bytes(bytes(110_000))
        choose(opened, [bad])
        wait_for(lambda: opened.evaluate("done") == 4)
        assert "the limit is 0.1 MB" in opened.evaluate("document.querySelector('.error').textContent")
        opened.evaluate("document.getElementById('clear').click()")
        assert opened.evaluate("document.querySelectorAll('.card').length") == 0


def choose(opened, files):
    root = opened.call("DOM.getDocument")["root"]["nodeId"]
    node = opened.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    opened.call("DOM.setFileInputFiles", nodeId=node, files=list(map(str, files)))


def complaints(opened):
    kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    return [event for event in opened.events if event["method"] in kinds]


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_after_the_requests_in_flight(name, folder, capfd, monkeypatch):
    run, bind, seen = servable.SavedModel.run, server.bind, {}

    def slowly(self, signature, items):
        if one.address and "flying" in seen:
            seen["begun"] = True
            time.sleep(0.5)
        return run(self, signature, items)

    def noted(*arguments):
        bound, one.address = bind(*arguments)
        return bound, one.address

    def is_up():
        with contextlib.suppress(OSError):
            return one.address and ask(one, "GET", "/info")[0] == 200

    def client():
        try:
            wait_for(is_up, 60)
            with futures.ThreadPoolExecutor(1) as pool:
                seen["flying"] = True
                flying = pool.submit(post, one, {"instances": [b64(picture(0))]})
                wait_for(lambda: "begun" in seen)
                with socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(one.address).port)) as idle:
                    idle.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
                    time.sleep(0.1)
                    os.kill(os.getpid(), getattr(signal, name))
                    seen["status"] = flying.result()[0]
                    seen["answered"] = time.monotonic()
        except BaseException as error:
            seen["error"] = error
            os.kill(os.getpid(), signal.SIGTERM)

    class one:
        address = ""

    monkeypatch.setattr(servable.SavedModel, "run", slowly)
    monkeypatch.setattr(server, "bind", noted)
    thread = threading.Thread(target=client)
    thread.start()
    code = serve.main([f"--model={folder}/model", "--port=0"])
    ended = time.monotonic()
    thread.join()
    assert "error" not in seen, seen["error"]
    captured = capfd.readouterr()
    assert f"ready at {one.address}\n" in captured.err
    assert (code, seen["status"]) == (0, 200) and ended - seen["answered"] < 2
    result = json.loads(captured.out.splitlines()[-1])
    assert result == {"model": f"{folder}/model", "address": one.address, "images": 1, "batches": 1}


def test_bad_flags_are_one_line(folder, tmp_path, capsys, monkeypatch):
    def refused(*flags, code=1):
        assert serve.main(list(flags)) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err.splitlines()[-1]

    model = f"--model={folder}/model"
    assert "--model is not set" in refused()
    assert f"--model={tmp_path}/none: no such file" in refused(f"--model={tmp_path}/none", "--port=0")
    assert "--model_name=a/b" in refused(model, "--model_name=a/b")
    assert "--port=70000" in refused(model, "--port=70000", code=2)
    assert "--host=no.such.host.invalid" in refused(model, "--host=no.such.host.invalid", "--port=0")
    assert "--host=192.0.2.1: Cannot assign" in refused(model, "--host=192.0.2.1", "--port=0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port={port}: Address already in use" in refused(model, f"--port={port}")
    bound, address = server.bind("0.0.0.0", 0)
    bound.close()
    assert "anyone who reaches port" in capsys.readouterr().err and address.startswith("http://0.0.0.0:")
    for missing in ("uvicorn", "python_multipart"):
        with monkeypatch.context() as patched:
            patched.delitem(sys.modules, "resnet_tf.serving.server")
            patched.setitem(sys.modules, missing, None)
            import resnet_tf.serving

            patched.delattr(resnet_tf.serving, "server")
            assert refused(model) == "error: serve needs FastAPI and uvicorn: pip install 'resnet_tf[serve]'"


def test_a_servable_needs_classes(monkeypatch, folder):
    model = servable.load(folder / "model")
    monkeypatch.setattr(model, "run", lambda *_: {"masks": np.zeros(1)})
    with pytest.raises(InputError, match="masks"):
        servable.warm_up(model)


# --- Speed -----------------------------------------------------------------------------------------------------------


def test_an_answer_is_sent_without_delay():
    """The two packets of an answer; asyncio looks at the protocol of the socket to send them at once."""
    bound, _ = server.bind("127.0.0.1", 0)
    with bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_a_load_test_measures_every_number_of_clients(folder, tmp_path, last_json, capsys):
    for index in range(3):
        (tmp_path / f"{index}.jpg").write_bytes(picture(index, "JPEG"))
    flags = [f"--data_dir={tmp_path}", "--clients=1,3", "--steps=4"]
    assert benchmark.main(["serving", f"--model_dir={folder}/model", *flags]) == 0
    result = last_json()
    assert [(row["clients"], row["requests"], row["refused"]) for row in result["rows"]] == [(1, 4, 0), (3, 12, 0)]
    for row in result["rows"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] and row["requests_per_second"] > 0
    for bad, words in (
        (flags, "--model_dir is not set"),
        ([f"--model_dir={folder}/model", f"--data_dir={tmp_path}", "--clients=0"], "--clients=0: no positive numbers"),
    ):
        assert benchmark.main(["serving", *bad]) == 1
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_server_that_does_not_start_says_why():
    with tempfile.TemporaryFile() as errors:
        code = "import sys; sys.exit('warning: old\\nerror: --model=none: no such file or folder')"
        process = subprocess.Popen([sys.executable, "-c", code], stderr=errors)
        with pytest.raises(InputError, match=r"^serve did not start: --model=none: no such file or folder$"):
            serving._address(process, errors)
