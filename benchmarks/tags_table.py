"""Write the part of docs/family.md that says which published weights load, which do not, and why.

    python benchmarks/tags_table.py

benchmarks/family_table.py writes the rest of the page and keeps this part.
"""

import collections
import pathlib

from resnet_tf.models import published

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "family.md"
TITLE = "## Published weights"


def lines() -> list[str]:
    """Return the lines of the part."""
    tags = list(published.table().values())
    loading = [tag for tag in tags if not tag.reason]
    counts = collections.Counter(tag.publisher for tag in loading)
    found = [
        TITLE,
        "",
        f"`python benchmarks/tags_table.py` writes this part of the page. Of {len(tags)} published files",
        f"{len(loading)} load: {', '.join(f'{count} of {library}' for library, count in counts.items())}.",
        "",
        "- size, crop: side in pixels and share of the crop in training; test: at which top-1 was measured;",
        "- top-1: on the validation images of ImageNet-1k in percent, of timm from its results/results-imagenet.csv",
        '  of 30 October 2025, of torchvision from its own table; bold: what `weights="imagenet"` takes.',
        "",
        "| tag | network | classes | size, crop | test | scaling | top-1 | licence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for tag in loading:
        name = f"**{tag.tag}**" if published.best().get(tag.row) == tag else tag.tag
        top1 = "" if tag.top1 is None else f"{tag.top1:.2f}"
        sizes = f"{tag.size}, {tag.crop:.3g} | {tag.test_size}, {tag.test_crop:.3g}"
        found.append(f"| {name} | {tag.row} | {tag.classes} | {sizes} | {tag.interpolation} | {top1} | {tag.licence} |")
    found += ["", "These do not load:", "", "| tag | network with the same graph | why |", "|---|---|---|"]
    found += [f"| {tag.tag} | {tag.row} | {tag.reason} |" for tag in tags if tag.reason]
    return found


def main():
    """Replace the part of the page."""
    before = PAGE.read_text().partition(TITLE)[0].rstrip()
    PAGE.write_text("\n".join([before, "", *lines()]) + "\n")


if __name__ == "__main__":
    main()
