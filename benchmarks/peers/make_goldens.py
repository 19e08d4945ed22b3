"""Make tests/golden/*.npz and tests/golden/variants/*.npz: what timm's networks answer, with weights drawn anew.

    python benchmarks/peers/make_goldens.py [NAME ...]  # or "parameters", for tests/golden/timm_parameters.json

Needs timm, torch and NumPy; `make test` needs only what this writes: the names and shapes of the state dict (in
its order, from which tests/drawn.py draws the weights), and for each image size the first 50 logits of two images,
their standard deviation over all classes, and mean and standard deviation of each stage's output.
"""

import json
import pathlib
import sys

import numpy as np
import timm
import torch

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import drawn  # noqa: E402

NETWORKS = {
    "resnet18": "resnet18_v1b",
    "resnet34": "resnet34_v1b",
    "resnet50": "resnet50_v1b",
    "resnet101": "resnet101_v1b",
    "resnet152": "resnet152_v1b",
    "resnet50c": "resnet50_v1c",
    "resnet101c": "resnet101_v1c",
    "resnet152c": "resnet152_v1c",
    "resnet18d": "resnet18_v1d",
    "resnet34d": "resnet34_v1d",
    "resnet50d": "resnet50_v1d",
    "resnet101d": "resnet101_v1d",
    "resnet152d": "resnet152_v1d",
    "resnet200d": "resnet200_v1d",
    "resnetv2_18": "resnet18_v2",
    "resnetv2_34": "resnet34_v2",
    "resnetv2_50": "resnet50_v2",
    "resnetv2_101": "resnet101_v2",
    "resnetv2_152": "resnet152_v2",
}
SIZES = ((224, 224), (225, 225), (160, 192), (97, 97))
# One network for each value of a field that no network above has, at sizes that are quick; in float64, since sums over
# standardised kernels cancel so much that timm's own float32 is 1e-4 off.
VARIANTS = (
    "test_resnet", "resnet14t", "resnet50s", "wide_resnet50_2", "seresnext26t_32x4d", "ecaresnet26t",
    "senet154", "resnetblur18", "resnetaa34d", "resnetrs50", "resnet50_gn", "resnetv2_18d", "resnetv2_50d_evos",
    "resnetv2_50x1_bit",
)  # fmt: skip
VARIANT_SIZES = ((64, 64), (65, 65), (64, 96))  # even, odd, not square
LOGITS = 50


def golden(timm_name, our_name, sizes=SIZES, dtype=torch.float32):
    """What one network answers, computed in `dtype`: {name: array} for the file."""
    model = timm.create_model(timm_name, pretrained=False).eval()
    shapes = {
        name: tuple(value.shape)
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    state = {name: torch.from_numpy(value) for name, value in drawn.weights(shapes, our_name).items()}
    model.load_state_dict(state, strict=False)
    model.to(dtype)
    stages = model.stages if hasattr(model, "stages") else [getattr(model, f"layer{stage}") for stage in (1, 2, 3, 4)]
    outputs = []
    for stage in stages:
        stage.register_forward_hook(lambda _, __, output: outputs.append(output))
    content = {
        "shapes": np.array(json.dumps(shapes)),
        "source": np.array(f"timm {timm.__version__} {timm_name}, torch {torch.__version__}"),
    }
    for height, width in sizes:
        outputs.clear()
        images = torch.from_numpy(drawn.images(height, width)).permute(0, 3, 1, 2).to(dtype)
        with torch.no_grad():
            logits = model(images)
        key = f"{height}x{width}"
        content[f"{key}/logits"] = logits[:, :LOGITS].numpy()
        content[f"{key}/std"] = logits.std().numpy()
        content[f"{key}/stages"] = np.array([[x.mean().item(), x.std(correction=0).item()] for x in outputs])
    return content


def parameters():
    """Return {timm's name: number of parameters} of all networks of resnet.py and resnetv2.py."""
    counts = {}
    for name in timm.list_models(module="resnet") + timm.list_models(module="resnetv2"):
        with torch.device("meta"):
            counts[name] = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    return counts


def main():
    """Make the files of the networks named, or of all."""
    torch.manual_seed(0)
    if len(sys.argv) == 1 or "parameters" in sys.argv[1:]:
        text = json.dumps(parameters(), indent=1)
        (ROOT / "tests" / "golden" / "timm_parameters.json").write_text(text + "\n")
    for name in VARIANTS:
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        content = golden(name, name, VARIANT_SIZES, torch.float64)
        np.savez_compressed(ROOT / "tests" / "golden" / "variants" / f"{name}.npz", **content)
        print(f"{name}: made", flush=True)
    for timm_name, our_name in NETWORKS.items():
        if len(sys.argv) > 1 and our_name not in sys.argv[1:] and timm_name not in sys.argv[1:]:
            continue
        if timm_name not in timm.list_models():
            print(f"{timm_name}: timm {timm.__version__} has no such network")
            continue
        np.savez_compressed(ROOT / "tests" / "golden" / f"{our_name}.npz", **golden(timm_name, our_name))
        print(f"{our_name}: made", flush=True)


if __name__ == "__main__":
    main()
