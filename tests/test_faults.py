"""Trainings that are really stopped and killed, as processes: nothing is lost, and the end is the same to the bit."""

import json
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from forks import ends, free_ports, start_cluster, wait_for

from resnet_tf import train
from resnet_tf.runs import checkpoint, record

STEPS = 100
FLAGS = (
    "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--lr=0.01", "--pad=2",
    "--optimizer=adamw", "--ema=0.9", "--schedule=cosine", "--warmup_epochs=1", f"--train_steps={STEPS}",
    "--log_every=40", "--eval_every=80",
)  # fmt: skip


def start_anew(*flags):
    """A training as a person starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "resnet_tf.train", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=pathlib.Path(__file__).parent.parent,
    )  # fmt: skip


def rows_of(folder):
    keys = ("step", "epoch", "split", "loss", "top1", "top5", "lr", "gradient_norm")
    return [{key: row[key] for key in keys} for row in record.read_metrics(folder / "metrics.csv")]


def assert_same_end(one, two, steps=STEPS):
    first, second = (checkpoint.load(folder / "checkpoints" / f"step-{steps:08d}.npz") for folder in (one, two))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert rows_of(one) == rows_of(two)


def test_stopped_and_killed_runs_end_as_the_unbroken_one(start, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train.main([*FLAGS, f"--out={whole}", "--steps_per_call=7"]) == 0
    # A checkpoint at every step, so that kills hit the writing of one, too.
    flags = [*FLAGS, f"--out={broken}", "--checkpoint_every=1"]
    kept = broken / "checkpoints"
    chance = random.Random(0)
    last = 0
    for begin, sent in ((start_anew, signal.SIGTERM), (start, signal.SIGKILL), (start, signal.SIGINT)):
        process = begin(*flags)
        before = checkpoint.steps(kept)[-1:] or [0]
        wait_for(lambda before=before: (checkpoint.steps(kept) or [0])[-1] > before[0] + 5, process)
        time.sleep(chance.uniform(0, 0.1))
        begun = time.monotonic()
        process.send_signal(sent)
        errors = ends(process, -sent if sent == signal.SIGKILL else 75)
        last = checkpoint.steps(kept)[-1]
        if sent != signal.SIGKILL:
            assert time.monotonic() - begun < 10
            assert errors.strip().splitlines()[-1].startswith(f"stopped: {sent.name} at step {last} of {STEPS}, saved")
            assert not list(kept.glob(".*.partial"))
    assert 15 < last < STEPS  # each of the three went on where the one before was
    assert train.main([*FLAGS, f"--out={broken}"]) == 0
    assert_same_end(whole, broken)


# --- Several machines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])  # the first keeps the run's folder
def test_two_machines_train_as_one_and_survive_the_death_of_either(killed, start, tmp_path):
    steps = 48  # each of which waits for the other machine
    flags = [*FLAGS, "--bn=sync", "--checkpoint_every=8", "--optimizer=sgd", "--warmup_epochs=0", "--schedule=steps"]
    flags += ["--log_every=2", "--deterministic", f"--train_steps={steps}", "--eval_every=32"]
    one, whole, broken = tmp_path / "one", tmp_path / "whole", tmp_path / "broken"
    workers = start_cluster(start, whole, *flags)
    assert train.main([*flags, "--train_steps=4", f"--out={one}"]) == 0
    for worker in workers:
        ends(worker, 0)
    alone, together = ([row for row in rows_of(folder) if row["split"] == "train"][:2] for folder in (one, whole))
    for mine, theirs in zip(alone, together, strict=True):
        # Sums in another order: 1e-7 a step, amplified by four steps of training through BN.
        numbers = [name for name in mine if name != "split"]
        assert [mine[name] for name in numbers] == pytest.approx([theirs[name] for name in numbers], rel=1e-3)
    kept = broken / "checkpoints"
    for victim, sent in ((killed, signal.SIGKILL), (1, signal.SIGTERM)):
        workers = start_cluster(start, broken, *flags)
        before = (checkpoint.steps(kept) or [0])[-1]
        wait_for(lambda before=before: (checkpoint.steps(kept) or [0])[-1] > before, workers[victim])
        workers[victim].send_signal(sent)
        if sent == signal.SIGKILL:
            assert "another machine of the cluster is gone" in ends(workers[1 - victim], 75)
            workers[victim].communicate()
            continue
        said = [ends(worker, 75).strip().splitlines()[-1] for worker in workers]  # both stop, at the same step
        assert said[1].startswith(f"stopped: SIGTERM at step {checkpoint.steps(kept)[-1]} of {steps}, saved in")
        assert said[0] == said[1].replace("SIGTERM", "a signal to another machine")
    for worker in start_cluster(start, broken, *flags):
        ends(worker, 0)
    assert_same_end(whole, broken, steps)


def test_data_server_decodes_and_may_be_replaced(start, tmp_path, rng):
    for split, count in (("train", 40), ("test", 8)):
        for label in ("cat", "dog"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                (folder / f"{index}.png").write_bytes(tf.io.encode_png(image).numpy())
    flags = [
        "--dataset=folder", f"--data_dir={tmp_path}/data", "--view=random_resized_crop", "--image_size=16",
        "--model=cifar_resnet8_v1", "--batch_size=32", "--lr=0.01", f"--train_steps={STEPS}", "--log_every=40",
        "--checkpoint_every=20", "--normalization=imagenet", "--deterministic",
    ]  # fmt: skip
    whole, served = tmp_path / "whole", tmp_path / "served"
    assert train.main([*flags, f"--out={whole}"]) == 0
    ports = free_ports(2)
    address = [f"localhost:{port}" for port in ports]

    def answers(port):
        with socket.socket() as knocking:
            return not knocking.connect_ex(("localhost", port))

    def serve(*ports):
        processes = [start(f"--port={port}", module="data_server") for port in ports]
        for process, port in zip(processes, ports, strict=True):
            wait_for(lambda port=port: answers(port), process)
        return processes

    servers = serve(*ports)
    process = start(*flags, f"--out={served}", f"--data_service={','.join(address)}")
    try:
        wait_for(lambda: len(checkpoint.steps(served / "checkpoints")), process)
        servers[0].kill()
        servers[0].communicate()
        servers[:1] = serve(ports[0])
        errors = ends(process, 75)
        assert "a data server was started anew" in errors.strip().splitlines()[-1]
        assert train.main([*flags, f"--out={served}", f"--data_service={','.join(address)}"]) == 0
        assert_same_end(whole, served)
    finally:
        process.kill()
        for server in servers:
            server.terminate()
    for server in servers:
        output, _ = server.communicate(timeout=20)
        assert server.returncode == 0 and json.loads(output.strip().splitlines()[-1])["address"] in address


def test_data_server_that_is_not_there(tmp_path, capsys):
    (port,) = free_ports(1)
    flags = [
        "--dataset=synthetic", "--view=random_resized_crop", "--image_size=16", "--model=cifar_resnet8_v1",
        "--train_steps=1", "--batch_size=8", f"--out={tmp_path}/run",
    ]  # fmt: skip
    assert train.main([*flags, f"--data_service=localhost:{port}"]) == 1
    assert f"--data_service=localhost:{port}: no data server answers there" in capsys.readouterr().err
