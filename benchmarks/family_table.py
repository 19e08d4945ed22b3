"""Write docs/family.md: what every network costs, and how far it is from other implementations.

    python benchmarks/family_table.py [NAME ...]  # with names, only their lines are made anew

Differences are the largest over logits of two images, over their standard deviation, with random weights and
statistics: from timm by results/timm_parity.csv (50 logits, float64), which every call reads anew, and from
tests/reference.py, the papers' graphs in plain tf.nn operations (all logits, float32).
"""

import csv
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

sys.path.insert(0, str(ROOT / "benchmarks"))
import drawn  # noqa: E402
import reference  # noqa: E402
import tags_table  # noqa: E402
from test_family import SIZES, randomise, relative  # noqa: E402

import resnet_tf  # noqa: E402
from resnet_tf.models import cost_by_name, find  # noqa: E402
from resnet_tf.models.architectures import as_in_timm  # noqa: E402


def from_timm(name, graph):
    """Return the largest difference from timm in results/timm_parity.csv; None where timm has no such network."""
    if graph != "timm" and graphs(name)[1:]:
        return None
    with (ROOT / "results" / "timm_parity.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["network"] == name]
    return max((float(row[size]) for row in rows for size in ("96x96", "97x97", "64x96")), default=None)


def from_plain_operations(name, graph):
    """The same from the reference, or None where it has no such depth."""
    match = re.fullmatch(r"(?:cifar_)?(?:resnet|plain)(\d+)(?:_v\w+)?", name)
    depth = int(match[1]) if match else 0
    if not match or find(name).entry == "conv":  # ResNet-9: tests/test_resnet9.py
        return None
    if depth > 170 or (find(name).stem != "3x3" and depth not in reference.BLOCKS):
        return None
    model = resnet_tf.create_model(name, graph=graph, input_shape=(None, None, 3))
    written, row = reference.Reference(randomise(model), graph or "paper"), find(name)
    letter = name.split("_")[-1] if "_v" in name else "v1"
    worst = 0.0
    for height, width in ((32, 32), (33, 47)) if row.stem == "3x3" else SIZES:
        images = drawn.images(height, width)
        if row.stem == "3x3":
            expected = written.cifar(images, row.blocks[0], letter, row.shortcut, row.bottleneck)
        else:
            expected = written.imagenet(images, depth, letter, row.shortcut)
        worst = max(worst, relative(model(images, training=False), expected))
    return worst


def told(difference):
    """Return a difference as a cell of the table."""
    return "" if difference is None else f"{difference:.1e}"


def graphs(name):
    """The graphs that a name has: the paper's (None), and "timm" where timm's is another one."""
    row = find(name)
    return [None, "timm"] if row.preactivation and as_in_timm(row).graph != row.graph else [None]


def main():
    """Write the table."""
    lines = [
        "# The networks and their costs",
        "",
        "`python benchmarks/family_table.py` writes this page. The columns of the table:",
        "",
        "- parameters: trainable parameters; MiB: their size at 4 bytes each;",
        "- GMACs: multiply-accumulates (one multiplication and one addition) for one image of the paper's size;",
        "- GFLOPs (thop): as the tool thop counts them, two for each MAC and four for each output of a batch",
        "  normalisation;",
        "- from timm: largest difference of the logits of two images from those of timm's network, divided by their",
        "  standard deviation, with random weights and statistics, both in float64, the worst of 96, 97 and 64x96",
        "  pixels, of [results/timm_parity.csv](../results/timm_parity.csv); 3e-7 with EvoNorm (`_evos`), of",
        "  which timm takes the variances in float32. All in float32 it is some 1e-6; 1e-4 with",
        "  standardised kernels (`_bit`), whose sums cancel, and up to 1e-3 in the deepest networks;",
        "- from plain operations: the same from the paper's graph in plain tf.nn operations with explicit padding,",
        "  both in float32, the worst of 224, 225, 160x192 and 97 pixels (CIFAR nets: 32 and 33x47).",
        "",
        "A pre-activation net of basic blocks or for CIFAR has two graphs:",
        "",
        "- the paper's: the first shortcut carries the activated stem, and CIFAR bottlenecks have their stride in the",
        "  first 1x1;",
        "- timm's (`create_model(NAME, graph='timm')`, `--graph=timm`): the first shortcut carries the stem without",
        "  activation, and bottlenecks have their stride in the 3x3.",
        "",
        "`python -m resnet_tf.models --diagram=resnet18_v2,resnet18_v2:timm,cifar_resnet164_v2,cifar_resnet164_v2:timm",
        "--out=docs/pictures/preactivation.png` draws them:",
        "",
        "![Pre-activation in the paper and in timm](pictures/preactivation.png)",
        "",
        "| network | parameters | GMACs | GFLOPs (thop) | MiB | from timm | from plain operations |",
        "|---|---|---|---|---|---|---|",
    ]
    page = ROOT / "docs" / "family.md"
    kept = {line.split("|")[1].strip(): line for line in page.read_text().splitlines() if line.startswith("| ")}
    for name, graph in ((row, graph) for row in resnet_tf.list_models() for graph in graphs(row)):
        label = f"{name}{', timm' if graph else ''}"
        if sys.argv[1:] and name not in sys.argv[1:]:
            cells = kept.get(label, f"| {label} " + "| " * 6 + "|").split("|")
            cells[6] = f" {told(from_timm(name, graph))} "
            lines.append("|".join(cells))
            continue
        figures = cost_by_name(name, graph=graph)
        differences = [from_timm(name, graph), from_plain_operations(name, graph)]
        cells = map(told, differences)
        lines.append(
            f"| {label} | {figures.trainable_parameters:,} | {figures.gmacs:.3f} | "
            f"{figures.gflops_thop:.3f} | {figures.mib_float32:.2f} | {' | '.join(cells)} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    page.write_text("\n".join([*lines, "", *tags_table.lines()]) + "\n")


if __name__ == "__main__":
    main()
