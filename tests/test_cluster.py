"""Machines that train together: how they are named, how they meet, and what is said where one is missing or gone."""

import concurrent.futures
import json
import os
import pathlib
import signal
import socket
import time

import pytest
import yaml
from absl import flags
from forks import ends, free_ports, start_cluster, wait_for

from resnet_tf import config, train
from resnet_tf.errors import InputError
from resnet_tf.runs import cluster, record, signals

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = (
    "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--lr=0.01", "--pad=2",
    "--train_steps=4", "--log_every=1", "--bn=sync", "--eval_every=0",
)  # fmt: skip
SLURM = {
    "RESNET_TF_CLUSTER": "slurm", "SLURM_STEP_NODELIST": "n[2,10],m1", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_PROCID": "3", "SLURM_NODEID": "1", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "1000042",
}  # fmt: skip
PODS = {"RESNET_TF_CLUSTER": "train-0.train:7000,train-1.train:7000", "JOB_COMPLETION_INDEX": "1"}


def losses(folder):
    return [row["loss"] for row in record.read_metrics(folder / "metrics.csv") if row["split"] == "train"]


# --- Names -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch):
    """Function that sets variables, after others of clusters are taken away."""

    def set_them(variables):
        for name in [name for name in os.environ if name.startswith(("SLURM_", "TF_CONFIG", "RESNET_TF_CL", "JOB_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("TF_CONFIG", "")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_them


def test_tasks_of_slurm_in_the_order_of_their_ranks(environment):
    """TensorFlow's resolver would sort n10 before n2."""
    environment(SLURM)
    found = cluster.parse(cluster.configure())
    assert found == (("n2:20042", "n2:20043", "n10:20042", "n10:20043", "m1:20042"), 3)
    assert json.loads(os.environ["TF_CONFIG"])["task"] == {"type": "worker", "index": 3}


def test_pods_of_an_indexed_job(environment):
    environment(PODS)
    assert cluster.parse(cluster.configure()) == (("train-0.train:7000", "train-1.train:7000"), 1)
    environment(PODS | {"TF_CONFIG": json.dumps({"cluster": {"chief": ["a:1"], "worker": ["b:2"]}, "task": {
        "type": "worker", "index": 0}})})  # fmt: skip
    assert cluster.parse(cluster.configure()) == (("a:1", "b:2"), 1)  # said to TensorFlow itself


@pytest.mark.parametrize("variables", [{}, {"RESNET_TF_CLUSTER": "a:1", "JOB_COMPLETION_INDEX": "0"}])
def test_one_machine_alone(variables, environment):
    environment(variables)
    assert cluster.configure() == "" and cluster.parse("") == cluster.Cluster()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RESNET_TF_CLUSTER": "slurm"}, "SLURM_STEP_NODELIST is not set: start the training by srun"),
        (SLURM | {"SLURM_LOCALID": "0"}, "task 3 has place (1, 0) of (node, task on it), not (1, 1)"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2x"}, "RESNET_TF_CLUSTER=slurm: Invalid tasks-per-node"),
        (SLURM | {"SLURM_PROCID": "7"}, "RESNET_TF_CLUSTER=slurm: "),
        (PODS | {"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX=2: not an index of the 2 machines"),
        ({"RESNET_TF_CLUSTER": "a:1,b:2"}, "neither JOB_COMPLETION_INDEX nor RESNET_TF_MACHINE says"),
        (PODS | {"RESNET_TF_CLUSTER": "pbs"}, "RESNET_TF_CLUSTER=pbs: not slurm, and not addresses"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:2"]}}'}, "not JSON with a cluster and a task"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}'}, "not JSON"),
    ],
)
def test_what_does_not_name_machines_is_refused(variables, said, environment):
    environment(variables)
    with pytest.raises(InputError) as error:
        cluster.parse(cluster.configure())
    assert said in str(error.value) and "\n" not in str(error.value)


# --- Meeting, and being gone -----------------------------------------------------------------------------------------


def test_machines_meet_though_one_comes_late_and_one_comes_twice():
    addresses = tuple(f"localhost:{port}" for port in free_ports(3))
    clock = cluster._Clock()
    _, port = cluster._split(addresses[0])
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        met = [pool.submit(cluster._arrive, cluster.Cluster(addresses, 2), clock)]  # nobody listens yet
        time.sleep(0.1)
        met.append(pool.submit(cluster._welcome, cluster.Cluster(addresses, 0), clock))
        with socket.socket() as stranger:
            wait = time.monotonic() + 5
            while stranger.connect_ex(("localhost", port)) and time.monotonic() < wait:
                time.sleep(0.02)
            stranger.sendall(b"GET / HTTP/1.1")
        with socket.create_connection(("localhost", port)) as early:
            early.sendall(b"1\n")  # and dies
        time.sleep(0.5)
        assert not any(one.done() for one in met)
        cluster._arrive(cluster.Cluster(addresses, 1), clock)
        for one in met:
            one.result(timeout=5)


def test_a_machine_alone_says_for_whom_it_waits_and_ends_by_a_signal(start, tmp_path):
    process = start(
        *FLAGS, f"--out={tmp_path}/run", RESNET_TF_CLUSTER=f"localhost:{free_ports(1)[0]},far:7000",
        RESNET_TF_MACHINE="0",
    )  # fmt: skip
    said = []
    wait_for(lambda: said.append(process.stderr.read()) or "waiting for far:7000" in "".join(said), process, 30)
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM and not (tmp_path / "run").exists()


def test_a_taken_port_is_said(monkeypatch):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} of this machine, localhost:{port}: "):
            cluster.meet(cluster.Cluster((f"localhost:{port}", "b:1"), 0))


def test_a_machine_that_is_gone_ends_those_that_wait_for_it(monkeypatch):
    """As under NCCL, where nothing raises an error: the thread of the watch ends the process."""
    ended, said = [], []
    monkeypatch.setattr(cluster, "_LOOK", 0.02)
    monkeypatch.setattr(cluster.os, "_exit", ended.append)
    monkeypatch.setattr(cluster.os, "write", lambda _, text: said.append(text.decode()))
    other = socket.create_server(("localhost", 0))
    address = f"localhost:{other.getsockname()[1]}"
    monkeypatch.setattr(cluster, "_watch", cluster._Watch([address, "localhost:1"]))  # port 1 was never there
    with cluster.together("runs/x"):
        time.sleep(0.3)
    other.close()
    time.sleep(0.3)
    assert not ended  # nobody waits: it may have ended before this machine
    with cluster.together("runs/x"):
        time.sleep(0.5)
    assert ended[0] == 75  # and again, since nothing ends here
    assert said[0] == (
        f"stopped: another machine of the cluster is gone; {address} does not answer; start all of them again to go on "
        "in runs/x\n"
    )


# --- Training --------------------------------------------------------------------------------------------------------


def test_four_processes_and_four_replicas_train_as_one(start, tmp_path):
    processes = start_cluster(start, tmp_path / "processes", *FLAGS, count=4)
    for process in processes:
        ends(process, 0)
    ends(start(*FLAGS, "--replicas=4", f"--out={tmp_path}/replicas"), 0)
    assert train.main([*FLAGS, f"--out={tmp_path}/one"]) == 0
    one = losses(tmp_path / "one")
    assert len(one) == 4
    for other in ("processes", "replicas"):
        # Sums in another order: 1e-7 a step, amplified by four steps of training through BN.
        assert losses(tmp_path / other) == pytest.approx(one, rel=1e-3)


def test_tasks_of_slurm_train_together(start, tmp_path):
    variables = SLURM | {
        "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0",
        "SLURM_JOB_ID": str(os.getpid()),
    }  # fmt: skip
    tasks = [
        start(*FLAGS, f"--out={tmp_path}/run", **(variables | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}))
        for rank in range(2)
    ]
    for task in tasks:
        ends(task, 0)
    assert len(losses(tmp_path / "run")) == 4


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def test_the_manifest_of_kubernetes_holds_together(environment):
    """Names that must agree, exit codes as commands have them, and flags that the command knows."""
    service, job = yaml.safe_load_all((ROOT / "docker" / "train-job.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert set(spec) == {"completions", "parallelism", "completionMode", "backoffLimit", "podFailurePolicy", "template"}
    assert spec["completions"] == spec["parallelism"] and spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy needs
    rules = {rule["action"]: rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"]}
    assert rules["Ignore"]["values"] == [signals.EXIT_CODE] and rules["FailJob"]["values"] == [1, 2]
    assert {rule["containerName"] for rule in rules.values()} == {container["name"]}
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    port = service["spec"]["ports"][0]["port"]
    assert container["ports"] == [{"containerPort": port}]
    names = [f"{job['metadata']['name']}-{index}.{pod['subdomain']}:{port}" for index in range(spec["completions"])]
    assert pod["subdomain"] == service["metadata"]["name"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    for index, _ in enumerate(names):
        environment(variables | {"JOB_COMPLETION_INDEX": str(index)})
        assert cluster.parse(cluster.configure()) == (tuple(names), index)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    command, *arguments = container["args"]  # of the program `resnet-tf`, the entry point of the Dockerfile
    values = flags.FlagValues()
    config.define_flags(config.TrainConfig, values)
    values([command, *config.recipes.expanded(arguments)])
    assert command == "train"
    assert config.read_flags(config.TrainConfig, values).record.out.startswith("/shared/")
