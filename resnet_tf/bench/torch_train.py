"""Program of the PyTorch peers of `python -m resnet_tf.benchmark train`: training steps of a network of timm.

It needs only torch and timm. It first prints {"versions": "..."}. For each line on stdin it then trains --steps steps
and prints {"seconds", "peak_memory_mib"}. It prints an error as {"error": "..."} and ends when stdin ends. Examples are
synthetic and on the device, in channels_last. SGD has momentum and weight decay in one fused kernel. Mixed precision is
automatic (float16 with a scaled loss). cuDNN chooses its algorithms by trial.

Where $WORLD_SIZE is more than 1, this is one of as many processes of one GPU each, joined as `torchrun` joins them
($RANK, $LOCAL_RANK, $MASTER_ADDR, $MASTER_PORT), which train by DistributedDataParallel; --batch_size is that of one.
"""

import argparse
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable

WARM_STEPS = 3  # compile or choose algorithms; a CUDA graph is recorded in step 2 and replayed from step 3 on
MODES = ("eager", "default", "reduce-overhead", "max-autotune")  # all but the first: modes of torch.compile


def main() -> None:
    """Parse the flags, then answer each line of stdin with one measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="timm's name")
    for name in ("classes", "image_size", "batch_size", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), required=True)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--tf32", action="store_true", help="matrix products of float32 in TF32")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that prints of libraries do not mix with answers

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        import timm
        import torch
    except ImportError as error:
        return answer(error=f"{error} in {sys.executable}; RESNET_TF_PEER_PYTHON names the interpreter that has it")
    answer(versions=f"python {sys.version.split()[0]}; torch {torch.__version__}; timm {timm.__version__}")
    requests = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    try:
        requests.get()
        train = trainer(torch, timm, arguments)
        while True:
            answer(**train())
            requests.get()
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")
        raise


def _listen(requests):
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)  # the benchmark has ended: do not go on compiling


def trainer(torch, timm, arguments: argparse.Namespace) -> Callable:
    """Return a function that warms up, trains --steps steps and returns their seconds and peak of device memory."""
    on_gpu = arguments.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise RuntimeError("this torch finds no GPU")
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = arguments.tf32
    torch.set_float32_matmul_precision("high" if arguments.tf32 else "highest")
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.precision)
    model = timm.create_model(arguments.model, num_classes=arguments.classes)
    model = model.to(arguments.device, memory_format=torch.channels_last).train()
    if processes > 1:
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
        # Moving statistics of BN stay with each process, as torchvision's and timm's recipes have it: nothing is sent.
        model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    scaler = torch.amp.GradScaler(arguments.device, enabled=dtype is torch.float16)
    size = arguments.image_size
    images = torch.randn(arguments.batch_size, 3, size, size, device=arguments.device)
    images = images.to(dtype, memory_format=torch.channels_last)
    labels = torch.randint(arguments.classes, (arguments.batch_size,), device=arguments.device)
    forward = model if arguments.mode == "eager" else torch.compile(model, mode=arguments.mode)

    def step():
        with torch.autocast(arguments.device, dtype=dtype, enabled=dtype is not torch.float32):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def wait():
        if on_gpu:
            torch.cuda.synchronize()
        if processes > 1:
            torch.distributed.barrier()

    step()
    if on_gpu:  # the trials of cuDNN and the compiler are over
        torch.cuda.reset_peak_memory_stats()

    def train():
        for _ in range(WARM_STEPS):
            step()
        wait()
        start = time.perf_counter()
        for _ in range(arguments.steps):
            step()
        wait()
        seconds = time.perf_counter() - start
        if not on_gpu:
            return {"seconds": seconds}
        torch.cuda.empty_cache()  # systems measured next use the same GPU
        return {"seconds": seconds, "peak_memory_mib": torch.cuda.max_memory_allocated() / 2**20}

    return train


if __name__ == "__main__":
    main()
