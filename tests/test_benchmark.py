"""Benchmarks of training: peers in processes of their own, played by a stub, and the loop beside its step."""

import concurrent.futures
import csv
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_tf import benchmark, config
from resnet_tf.bench import measure, peers, training
from resnet_tf.models.layers import KERAS

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

ROOT = pathlib.Path(__file__).parents[1]
STUB = """#!{python}
import json, os, sys
def say(**values):
    print(json.dumps(values), flush=True)
with open({seen!r}, "w") as file:
    json.dump([os.getpid(), sys.argv[1:], dict(os.environ)], file)
say(versions="torch 0; timm 0")
for line in sys.stdin:
    {reply}
"""
FLAGS = ("train", "--model=resnet18_v1b", "--image_size=32", "--batch_size=2", "--steps=2", "--repeats=1",
         "--peers=timm_eager")  # fmt: skip


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Function that makes what answers in PyTorch's place; returns what it has seen: its id, arguments, environment."""
    path, seen = tmp_path / "python", tmp_path / "seen.json"

    def make(reply):
        path.write_text(STUB.format(python=sys.executable, seen=str(seen), reply=reply))
        path.chmod(0o755)
        monkeypatch.setenv("RESNET_TF_PEER_PYTHON", str(path))
        return lambda: json.loads(seen.read_text())

    return make


@pytest.fixture
def quick(monkeypatch):
    """Our own step does not matter here: it takes a second a step."""
    monkeypatch.setattr("resnet_tf.bench.training._ours", lambda task, strategy: peers.System(lambda: 2.0))


def refusal(flags, capsys):
    assert benchmark.main(list(flags)) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err.strip().splitlines()[-1]


def gone(process):
    """Whether a process has ended, though nobody may have waited for it; it is given a few seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout
        if state.strip()[:1] in ("", "Z"):
            return True
        time.sleep(0.02)
    return False


def test_process_is_measured_in_turn(stub, quick, capsys, tmp_path, monkeypatch):
    site, results = tmp_path / "site", tmp_path / "speed.csv"
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{site}/nvidia/cudnn/lib:/usr/local/driver/lib:")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_cuda_data_dir=x")
    seen = stub("say(seconds=0.5, peak_memory_mib=1234.4)")
    assert benchmark.main([*FLAGS, "--precision=bfloat16", f"--results={results}"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out.strip().splitlines()[-1])
    assert result["ours"] == 2.0 and result["peers"] == {"timm_eager": 8.0} and result["ratio"] == {"timm_eager": 0.25}
    assert result["peak_memory_mib"] == {"timm_eager": 1234}
    measured = [line.split(":")[0] for line in captured.err.splitlines() if " s" in line]
    assert measured == ["ours", "timm_eager"] * 2
    rows = list(csv.DictReader(results.open()))
    assert [(row["system"], row["strategy"], row["images_per_second"], row["ratio"]) for row in rows] == [
        ("ours", "mirrored x1", "2.0", ""),
        ("timm_eager", "one device", "8.0", "0.25"),
    ]
    assert "tensorflow" in rows[0]["versions"] and rows[1]["versions"] == "torch 0; timm 0"
    process, arguments, environment = seen()
    assert gone(process)
    assert {"--model=resnet18", "--classes=1000", "--steps=2", "--precision=bfloat16", "--mode=eager"} <= set(arguments)
    assert arguments[0].endswith("torch_train.py") and os.path.exists(arguments[0])
    assert "PYTHONPATH" not in environment and "XLA_FLAGS" not in environment
    assert environment["LD_LIBRARY_PATH"] == "/usr/local/driver/lib"


@pytest.mark.parametrize("locked", [True, False])
def test_under_a_lock_a_process_makes_ready_beside_ours(locked, stub, monkeypatch, capsys, tmp_path):
    asked, found = tmp_path / "asked", []
    stub(f"open({str(asked)!r}, 'a').write('x'); say(seconds=0.5)")

    def ours():
        deadline = time.monotonic() + (30 if locked else 0.5)
        while not asked.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        found.append(asked.exists())
        return 2.0

    monkeypatch.setattr("resnet_tf.bench.training._ours", lambda task, strategy: peers.System(ours))
    flags = [f"--lock={tmp_path}/lock"] if locked else []
    assert benchmark.main([*FLAGS, *flags]) == 0
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["peers"] == {"timm_eager": 4.0 / 0.5}
    assert found == [locked, True] and asked.read_text() == "xx"  # one answer a round


def test_replicas_beside_one(monkeypatch, capsys, tmp_path):
    made, results = [], tmp_path / "speed.csv"

    def ours(task, strategy):
        made.append((task.config.benchmark.batch_size, strategy.num_replicas_in_sync))
        return peers.System(lambda: 2.0)

    monkeypatch.setattr("resnet_tf.bench.training._ours", ours)
    flags = ["train", "--model=resnet18_v1b", "--image_size=32", "--batch_size=8", "--steps=2", "--repeats=1"]
    assert benchmark.main([*flags, "--replicas=2", "--peers=one_replica", f"--results={results}"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert sorted(made) == [(4, 1), (8, 2)]
    assert result["ours"] == 8.0 and result["peers"] == {"one_replica": 4.0} and result["ratio"] == {"one_replica": 2.0}
    rows = list(csv.DictReader(results.open()))
    assert [(row["system"], row["strategy"], row["batch"], row["images_per_second"]) for row in rows] == [
        ("ours", "mirrored x2", "8", "8.0"),
        ("one_replica", "mirrored x1", "4", "4.0"),
    ]


def test_side_by_side_they_make_ready_together_and_measure_alone(tmp_path, capsys):
    both, measured = threading.Barrier(2), []

    def benchmark_of(name):
        ready = False

        def run():
            nonlocal ready
            if not ready:
                both.wait(timeout=60)  # passed only by two at the same time
                ready = True
            else:
                measured.append(name)
                time.sleep(0.02)  # for the other to come between, if it can
            return 1.0

        with measure.Machine(str(tmp_path / "lock")) as machine:
            measure.in_turn({name: run}, 3, machine)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(benchmark_of, "ab"))
    assert measured in (list("aaabbb"), list("bbbaaa"))
    assert f"--lock={tmp_path}/lock: waiting for other benchmarks" in capsys.readouterr().err


def test_lock_that_cannot_be_opened(quick, capsys, tmp_path):
    said = refusal([*FLAGS, f"--lock={tmp_path}/none/lock"], capsys)
    assert said == f"error: --lock={tmp_path}/none/lock: No such file or directory"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ('say(error="OutOfMemoryError: 80 GiB")', "OutOfMemoryError: 80 GiB"),
        ('print("traceback", "last words", sep="\\n", file=sys.stderr); sys.exit(1)', "ended: last words"),
        ('print("no JSON", flush=True)', "answered 'no JSON'"),
        ("say(minutes=1)", "answered"),
    ],
)
def test_process_that_fails(stub, quick, capsys, reply, said):
    seen = stub(reply)
    line = refusal(FLAGS, capsys)
    assert line.startswith("error: --peers=timm_eager: ") and said in line
    assert gone(seen()[0])


def test_process_that_hangs_is_ended_with_its_children(stub, quick, capsys, monkeypatch, tmp_path):
    child = tmp_path / "child"
    reply = (
        "import subprocess; child = subprocess.Popen(['sleep', '60']); "
        f"open({str(child)!r}, 'w').write(str(child.pid)); child.wait()"
    )
    seen = stub(reply)
    monkeypatch.setattr(peers, "PATIENCE", 1.0)
    assert "no answer in 1 s" in refusal(FLAGS, capsys)
    assert gone(seen()[0]) and gone(int(child.read_text()))


def test_process_ends_where_another_system_fails(stub, capsys, monkeypatch):
    def fails(task, strategy):
        raise RuntimeError("ours")

    monkeypatch.setattr("resnet_tf.bench.training._ours", fails)
    seen = stub("say(seconds=0.5)")
    with pytest.raises(RuntimeError, match="ours"):
        benchmark.main(list(FLAGS))
    assert gone(seen()[0])


def test_missing_package_or_interpreter(quick, capsys, monkeypatch, tmp_path):
    # `python -S` knows no installed packages, so torch is missing whether it is there or not.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("RESNET_TF_PEER_PYTHON", str(python))
    line = refusal(FLAGS, capsys)
    assert "--peers=timm_eager" in line and ("'torch'" in line or "'timm'" in line) and "RESNET_TF_PEER_PYTHON" in line
    monkeypatch.setenv("RESNET_TF_PEER_PYTHON", str(tmp_path / "absent"))
    assert f"RESNET_TF_PEER_PYTHON={tmp_path / 'absent'}: No such file" in refusal(FLAGS, capsys)


def test_peer_script_ends_with_its_stdin(tmp_path):
    """Also while it is at work: whoever started it may be killed."""
    (tmp_path / "timm.py").write_text("__version__ = '0'\n")
    (tmp_path / "torch.py").write_text("import time\n__version__ = '0'\ndef __getattr__(name): time.sleep(60)\n")
    arguments = ["--model=x", "--classes=2", "--image_size=8", "--batch_size=2", "--steps=1", "--precision=float32",
                 "--mode=eager", "--device=cpu"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, peers.SCRIPT, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert "torch 0; timm 0" in json.loads(process.stdout.readline())["versions"]
    process.stdin.write(b"go\n")
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    process.stdout.close()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model=cifar_resnet20_v1",), "--peers=timm_eager: timm has no network like --model=cifar_resnet20_v1"),
        (("--shortcut=C",), "timm has no network like --model=resnet18_v1b as set"),
        (("--peers=keras_applications",), "it has no network like --model=resnet18_v1b"),
        (("--peers=keras_applications", "--model=resnet50_v1d"), "it has no network like --model=resnet50_v1d"),
        (("--replicas=2",), "--peers=timm_eager train on one device, not on 2"),
    ],
)
def test_peers_that_would_measure_something_else(flags, said, quick, capsys):
    assert said in refusal([*FLAGS, *flags], capsys)


def test_fit_sees_the_pool(monkeypatch):
    """Keras trains on the images themselves, normalised, each with its label; at most four batches are held."""
    settings = config.BenchmarkConfig(
        model=config.ModelConfig(model="cifar_resnet8_v1"),
        benchmark=config.BenchmarkSection(image_size=16, batch_size=4, steps=9),
    )
    task = training._task(settings, on_gpu=False)
    assert task.images.shape == (16, 16, 16, 3) and task.classes == 10
    fitted = []
    monkeypatch.setattr(keras.Model, "fit", lambda model, dataset, **_: fitted.append((model, dataset)))
    monkeypatch.setattr(peers, "_EpochClock", lambda: type("Clock", (), {"seconds": 1.0}))
    peers.keras_fit(task, None).run()
    model, dataset = fitted[0]
    normalised = np.asarray(task.normalization(task.images))
    batches = list(dataset)
    assert len(batches) == 9
    held = next(layer for layer in model.layers if isinstance(layer, peers._Held))
    for chosen, labels in batches:
        np.testing.assert_array_equal(held(chosen), normalised[chosen])
        np.testing.assert_array_equal(labels, task.labels[chosen])
    assert sorted(np.concatenate([chosen for chosen, _ in batches[:4]])) == list(range(16))
    kinds = {type(layer) for layer in model.layers[-1]._flatten_layers()}
    assert keras.layers.BatchNormalization in kinds and not kinds & set(KERAS)


def test_loop_beside_its_step(last_json, tmp_path):
    flags = ["loop", "--model=cifar_resnet8_v1", "--image_size=16", "--batch_size=64", "--steps=40", "--repeats=1"]
    assert benchmark.main([*flags, f"--results={tmp_path}/speed.csv"]) == 0
    result = last_json()
    assert result["benchmark"] == "loop" and result["unit"] == "images/s"
    assert 0.05 < result["ratio"]["bare_step"] < 20  # seconds for seconds of the same steps; the machine may be busy
    rows = list(csv.DictReader((tmp_path / "speed.csv").open()))
    assert [row["system"] for row in rows] == ["ours", "bare_step"]


def test_loop_too_short_to_time(capsys, monkeypatch):
    monkeypatch.setattr("resnet_tf.training.loop.train", write_rows)
    assert "--steps=10 took 0.07 s" in refusal(["loop", "--model=cifar_resnet8_v1", "--steps=10"], capsys)


def write_rows(task):
    """What a run leaves that took no time."""
    folder = pathlib.Path(task.config.record.out)
    folder.mkdir()
    (folder / "metrics.csv").write_text("split,wall_seconds\ntrain,3.012\ntrain,3.082\ntest,9.0\n")


def test_peak_memory_is_of_the_system_alone(monkeypatch):
    """Where two share an allocator, each is charged what it holds and its steps take, not what compiling took."""
    memory = {"current": 50 << 20, "peak": 0}  # of something else

    def take(held=0, passing=0):
        memory["current"] += held << 20
        memory["peak"] = max(memory["peak"], memory["current"] + (passing << 20))

    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda device: memory)
    monkeypatch.setattr(
        tf.config.experimental, "reset_memory_stats", lambda device: memory.update(peak=memory["current"])
    )

    def make(held, slots, compiling, steps):
        first = iter([True])

        def run():
            take(slots, compiling) if next(first, False) else take(0, steps)
            return 1.0

        take(held)
        return peers.System(run)

    task = types.SimpleNamespace(on_gpu=True)
    one = training._watched(lambda: make(100, 0, 9000, 1000), task)
    other = training._watched(lambda: make(200, 30, 500, 2000), task)
    elsewhere = training._watched(lambda: peers.System(lambda: 1.0, "torch 0", 7.0), task)
    for _ in range(3):
        for system in (one, other, elsewhere):
            system.run()
    assert (one.peak_mib, other.peak_mib, elsewhere.peak_mib) == (1100, 2230, 7.0)


def test_augmentation_beside_a_step_and_alone(capsys, tmp_path):
    flags = ["augment", "--model=cifar_resnet8_v1", "--image_size=16", "--batch_size=8", "--steps=2", "--repeats=1"]
    assert benchmark.main([*flags, f"--results={tmp_path}/speed.csv"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["alone_ms"] > 0 and result["ours"] > 0 and set(result["peers"]) == {"without"}
    assert result["share"] == pytest.approx(result["device_part_ms"] / result["peers"]["without"], abs=1e-3)
    assert len((tmp_path / "speed.csv").read_text().splitlines()) == 3


def test_reading_beside_pillow(capsys, tmp_path, rng):
    for index in range(3):
        image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        (tmp_path / f"{index}.jpg").write_bytes(tf.io.encode_jpeg(image).numpy())
    flags = ["input", f"--data_dir={tmp_path}", "--image_size=16", "--steps=20", "--repeats=1", "--peers=pillow"]
    assert benchmark.main(flags) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["ours"] > 0 and result["ratio"]["pillow"] > 0 and "1" in result["threads"]
    assert benchmark.main(["input", f"--data_dir={tmp_path}/none", "--peers=pillow"]) == 1
    assert f"{tmp_path}/none" in capsys.readouterr().err.strip().splitlines()[-1]
