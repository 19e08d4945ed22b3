"""Scripts of benchmarks/: what a trace and a program add up to, and a matrix of benchmarks side by side."""

import csv
import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from resnet_tf.training import supply

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

ROOT = pathlib.Path(__file__).parents[1]


def script(name):
    """A file of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trace_is_summed_by_kind(tmp_path, monkeypatch, capsys):
    """Two streams of the first GPU, whose kernels overlap; the host's events and the second GPU's are not counted."""
    kernels = script("kernels")
    monkeypatch.setattr("sys.argv", ["kernels.py", str(tmp_path), "--steps=2"])
    with pytest.raises(SystemExit, match="no profiler trace"):
        kernels.main()
    space = xplane_pb2.XSpace()
    for plane_name, lines in {
        "/host:CPU": {"Stream": [("input_reduce_fusion", 0, 90)]},
        "/device:GPU:1": {"Stream #1": [("input_reduce_fusion", 0, 90)]},
        "/device:GPU:0": {
            "Stream #13": [("sm90_xmma_fprop_implicit_gemm", 10, 20), ("loop_convert_fusion_3", 30, 5)],
            "Stream #14": [("input_multiply_reduce_fusion", 25, 7), ("ncclDevKernel_AllReduce", 40, 2)],
            "XLA Ops": [("fusion.3", 10, 32)],
        },
    }.items():
        plane = space.planes.add(name=plane_name)
        for number, (line_name, events) in enumerate(lines.items()):
            line = plane.lines.add(name=line_name, timestamp_ns=1_000_000 * number)  # offsets are from there
            for name, begin, duration in events:
                key = len(plane.event_metadata)
                plane.event_metadata[key].name = name
                offset = int((begin - number) * 1e9)
                line.events.add(metadata_id=key, offset_ps=offset, duration_ps=int(duration * 1e9))
    path = tmp_path / "plugins" / "profile" / "a" / "host.xplane.pb"
    path.parent.mkdir(parents=True)
    path.write_bytes(space.SerializeToString())
    kernels.main()
    found = json.loads(capsys.readouterr().out)
    assert found["ms"] == 16.0 and found["idle_ms"] == 2.5  # 10 to 42, of which 35 to 40 is idle; two steps
    assert found["kinds"] == {
        "convolutions": [10.0, 0.5], "reductions": [3.5, 0.5], "elementwise": [2.5, 0.5], "collectives": [1.0, 0.5],
    }  # fmt: skip
    assert list(found["longest"]) == [
        "sm90_xmma_fprop_implicit_gemm", "input_multiply_reduce_fusion", "loop_convert_fusion_3",
        "ncclDevKernel_AllReduce",
    ]  # fmt: skip


MODULE = """HloModule step

%fused_reduce (p: f16[4,8]) -> f32[8] {
  %p = f16[4,8]{1,0} parameter(0)
  ROOT %r = f32[8]{0} reduce(%p)
}

%graph (q: f16[4,8]) -> f16[4,8] {
  %q = f16[4,8]{1,0} parameter(0)
  ROOT %loop_add_fusion = f16[4,8]{1,0} fusion(%q, %q), kind=kLoop, calls=%fused_add
}

%body.1 (state: (f16[4,8], f32[8])) -> (f16[4,8], f32[8]) {
  %state = (f16[4,8]{1,0}, f32[8]{0}) parameter(0)
  %x = f16[4,8]{1,0} get-tuple-element(%state), index=0
  %conv = (f16[4,8]{1,0}, u8[100]{0}) custom-call(%x), custom_call_target="__cudnn$convForward", metadata={}
  %y = f16[4,8]{1,0} get-tuple-element(%conv), index=0
  %input_reduce_fusion = f32[8]{0} fusion(%y), kind=kInput, calls=%fused_reduce, metadata={}
  %z = f16[4,8]{1,0} call(%y), to_apply=%graph
  %gemm_fusion_dot = f32[8]{0} fusion(%z), kind=kCustom, calls=%gemm_fusion
  %loop_fusion = f32[8]{0} fusion(%gemm_fusion_dot), kind=kLoop, calls=%fused
  ROOT %t = (f16[4,8]{1,0}, f32[8]{0}) tuple(%z, %input_reduce_fusion)
}

ENTRY %main (a: f16[4,8]) -> f16[4,8] {
  %a = f16[4,8]{1,0} parameter(0)
  %w = (f16[4,8]{1,0}, f32[8]{0}) while(%a), condition=%c, body=%body.1
  ROOT %o = f16[4,8]{1,0} get-tuple-element(%w), index=0
}
"""


def test_traffic_is_what_the_kernels_of_the_loop_are_given_and_make(tmp_path, monkeypatch, capsys):
    """64 bytes an array of float16, 32 a vector: a convolution and its 100 of workspace, sums, a graph's, a product."""
    traffic, path = script("traffic"), tmp_path / "module.txt"
    path.write_text(MODULE)
    found = traffic.traffic(MODULE)
    assert {kind: [row["kernels"], round(1e9 * row["read_gb"]), round(1e9 * row["written_gb"])]
            for kind, row in found.items()} == {
        "convolutions": [1, 64, 164], "elementwise": [2, 160, 96], "reductions": [1, 64, 32],
        "matrix products": [1, 64, 32],
    }  # fmt: skip
    monkeypatch.setattr("sys.argv", ["traffic.py", str(path)])
    traffic.main()
    assert json.loads(capsys.readouterr().out)["kinds"].keys() == found.keys()
    path.write_text("no module")
    with pytest.raises(SystemExit, match="not a module"):
        traffic.main()
    path.unlink()
    with pytest.raises(SystemExit, match="No such file"):
        traffic.main()


MATRIX_STUB = """
import csv, pathlib, sys, time
flags = dict(flag.removeprefix("--").split("=") for flag in sys.argv[2:])
beside = pathlib.Path(sys.argv[1])
mine = beside / (flags["model"] + flags["precision"])
mine.touch()
most = 0
for _ in range(50):
    most = max(most, len(list(beside.iterdir())))
    time.sleep(0.02)
mine.unlink()
if flags["precision"] == "float16" and not (beside.parent / "mended").exists():
    sys.exit("error: no luck")
with open(flags["results"], "a", newline="") as file:
    for system in ("ours", *flags["peers"].split(",")):
        row = ["abc", "train", flags["model"], flags["batch_size"], flags["precision"], system, most]
        csv.writer(file).writerow(row)
print("measured")
"""


@pytest.mark.parametrize(("share", "most"), [(0.6, 1), (2.1, 2), (9.0, 3)])
def test_a_matrix_is_measured_side_by_side_and_goes_on(share, most, tmp_path, monkeypatch, capsys):
    """In --gib for so many times what one holds."""
    matrix = script("matrix")
    monkeypatch.setenv("RESNET_TF_COMMIT", "abc")
    results, beside, stub = tmp_path / "speed.csv", tmp_path / "beside", tmp_path / "stub.py"
    beside.mkdir()
    stub.write_text(MATRIX_STUB)
    header = "commit,benchmark,model,batch,precision,system,most\n"
    # Of another commit, and without a peer: neither is measured.
    results.write_text(f"{header}abd,train,resnet18_v1,64,float32,ours,0\nabc,train,resnet18_v1,64,bfloat16,ours,0\n")
    flags = ["--models=resnet18_v1", "--batch_sizes=64", "--precisions=float16,bfloat16,float32", "--processes=3",
             "--peers=timm_eager,timm_compile", f"--results={results}", f"--logs={tmp_path}/logs"]  # fmt: skip
    arguments = matrix.parser().parse_args(flags)
    waiting = matrix.planned(arguments)
    names = [f"resnet18_v1-64-{precision}" for precision in ("float16", "bfloat16", "float32")]
    assert [name for name, _, _ in waiting] == names
    arguments.gib = share * waiting[0][1]
    program = (sys.executable, str(stub), str(beside))
    assert matrix.run(waiting, arguments, program) == names[:1]
    said = capsys.readouterr().err
    assert f"{names[0]}: error: no luck" in said and f"{names[1]}: measured" in said
    rows = list(csv.DictReader(results.open()))[2:]
    assert max(int(row["most"]) for row in rows) == most
    assert [name for name, _, _ in matrix.planned(arguments)] == names[:1]
    (tmp_path / "mended").touch()
    assert not matrix.run(matrix.planned(arguments), arguments, program) and not matrix.planned(arguments)
    monkeypatch.setattr("sys.argv", ["matrix.py", *flags])
    with pytest.raises(SystemExit, match=r"error: .*speed\.csv"):  # of other columns
        matrix.main()
    monkeypatch.setattr("sys.argv", ["matrix.py", *flags, "--models=resnet19", f"--results={tmp_path}/none.csv"])
    with pytest.raises(SystemExit, match=r"error: .*resnet19"):
        matrix.main()
    assert not (tmp_path / "none.csv").exists()


def test_a_race_repeats_a_seed_and_compiles_once(monkeypatch, capsys, tmp_path):
    speedrun = script("speedrun")
    monkeypatch.setattr("sys.argv", [
        "speedrun.py", "--runs=2", "--target=0", f"--out={tmp_path / 'race.json'}", "--dataset=digits", "--seed=3",
        "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=64", "--train_steps=6", "--pad=1",
        "--mirroring=alternate",
    ])  # fmt: skip
    _, (setting,) = speedrun.parsed()
    assert setting.seeds == [3, 4]
    race, found = speedrun.Race(setting.config), []
    for seed in (3, 4, 3):
        race.restart(seed)
        race.run(race.total)
        found.append(race.engine.state.get_all())
    calls = race.engine._call.experimental_get_tracing_count()
    assert calls == 1 and found[0]["state/step"] == race.total == 6

    def equal(first, second):
        return [name for name in first if name.endswith("kernel") and (first[name] == second[name]).all()]

    assert equal(found[0], found[2]) and not equal(found[0], found[1])
    assert len(equal(found[0], found[2])) == sum(name.endswith("kernel") for name in found[0])
    # Order, mirroring and random views are those of `train` with the same seed.
    for seed in (3, 4):
        race.supply.seed = seed
        part = race.supply.take(0, 1)
        ours = race.supply.batch(0, part.data[0], 0, tf.constant(0, tf.int64))
        images, labels = map(np.asarray, race.supply._data[0])
        plain = supply.Resident(race.engine, images, labels, 64, seed, race.total, alternate=True)
        theirs = plain.batch(0, plain.take(0, 1).data[0], 0, tf.constant(0, tf.int64))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_race_of_a_grid_keeps_what_it_has(monkeypatch, capsys, tmp_path):
    speedrun = script("speedrun")
    (tmp_path / "grid.yaml").write_text(
        "flags: {dataset: digits, image_size: 16, model: cifar_resnet8_v1, batch_size: 64, train_steps: 2, pad: 1,"
        " log_every: 1}\n"
        "rows:\n  - {name: slow}\n  - {name: fast, lr: 0.2}\n  - {name: broken, lr: 1.0e+30}\n"
        "  - {name: late, lr: 0.3}\n"
        "grid:\n  seed: [0, 1]\n"
    )
    flags = [f"--grid={tmp_path / 'grid.yaml'}", f"--results={tmp_path / 'r.csv'}", f"--out={tmp_path / 'r.json'}"]
    monkeypatch.setattr("sys.argv", ["speedrun.py", *flags, "--only=fast,broken,slow", "--momentum=0.5"])
    arguments, settings = speedrun.parsed()
    assert [setting.name for setting in settings] == ["fast", "broken", "slow"] and settings[0].seeds == [0, 1]
    assert settings[0].config.optimizer.momentum == 0.5
    monkeypatch.setattr("sys.argv", ["speedrun.py", *flags, "--only=fast", "--seed=7", "--runs=3"])
    assert [setting.seeds for setting in speedrun.parsed()[1]] == [[7, 8, 9]]
    trainings, done = speedrun.Trainings(settings, arguments), []

    def stopped(self, steps):  # as by SIGTERM, in the second training of the last setting
        done.append(steps)
        if len(done) == 8:
            raise KeyboardInterrupt
        return run(self, steps)

    run = speedrun.Race.run
    monkeypatch.setattr(speedrun.Race, "run", stopped)
    trainings.run()
    with open(tmp_path / "r.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["seed"], row["split"]) for row in rows] == [
        ("fast", "0", "test"), ("fast", "1", "test"), ("slow", "0", "test")
    ]  # fmt: skip
    found = json.loads((tmp_path / "r.json").read_text())["settings"]
    assert [one["runs"] for one in found] == [2, 0, 1] and "not finite" in found[1]["error"]
    assert found[0]["seconds"] == pytest.approx(sum(found[0]["each_seconds"]) / 2, abs=1e-3)
    table = trainings.table().splitlines()
    assert len(table) == 5 and "| broken | 0 |" in table[-1]
    arguments.minutes = 0.0
    late = speedrun.Trainings(settings[:1], arguments)
    late.run()
    assert late.settings[0].error == "--minutes=0 are over" and len(done) == 8


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--only=a"], "--only: names rows of a --grid"),
        (["--grid=flags/grids/cifar10_depth.yaml", "--data_dir=x", "--only=a"], "--only: a is no row of"),
        (["--runs=0"], "--runs: at least 1"),
        (["--epochs=1"], "epochs"),
    ],
)
def test_a_race_names_the_wrong_flag(flags, said, monkeypatch, capsys):
    speedrun = script("speedrun")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["speedrun.py", *flags])
    with pytest.raises(SystemExit):
        speedrun.parsed()
    assert said in capsys.readouterr().err


def test_a_race_of_streamed_images_is_refused(monkeypatch, tmp_path):
    speedrun = script("speedrun")
    monkeypatch.setattr("sys.argv", ["speedrun.py", "--dataset=synthetic", "--view=random_resized_crop"])
    with pytest.raises(SystemExit):
        speedrun.main()
