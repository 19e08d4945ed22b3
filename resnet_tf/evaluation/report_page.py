"""The page of a report, report.html: what a person with a folder of images can read, in one file."""

import datetime
import html
from collections.abc import Sequence

import numpy as np

from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation import (
    answers,
    attribution,
    calibration,
    document,
    label_errors,
    metrics,
    report_charts,
    slices,
    thumbnails,
    trained,
)
from resnet_tf.evaluation.outcome import Outcome
from resnet_tf.runs import record

_SHOWN = 24  # probable label errors with pictures
_CLOSE = 0.01  # a smaller difference of confidence and accuracy is not spoken of
_VIEWS = {
    "center": "one central crop of each image",
    "ten_crop": "the mean over ten crops of each image",
    "multi_scale": "the mean over several scales of each image",
}
_SLICES = {  # a slice's group in words
    slices.SIDE: "shorter side {} pixels",
    slices.SHAPE: "{}",
    slices.BRIGHTNESS: "brightness {}",
}
_STYLE = """
h1{text-wrap:balance}
h1+p{font-size:1.0625rem}
.warning{border-left:3px solid var(--c1);padding:.25rem 0 .25rem .75rem}
.tall{max-height:34rem;overflow-y:auto}
header .warning,.warning{color:var(--ink)}
.tall thead th{position:sticky;top:0;background:var(--ground)}
.tall thead th:first-child{z-index:1}
.cards{display:grid;gap:1.25rem 1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr))}
.cards.small{grid-template-columns:repeat(auto-fill,minmax(min(45%,11rem),1fr));gap:1rem .75rem}
.cards figure{background:var(--card);border-radius:.5rem;padding:.6rem}
.cards div{display:grid;grid-template-columns:1fr 1fr;gap:.4rem}
.cards div.one{grid-template-columns:1fr}
.cards img{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--ground);border-radius:.25rem}
.cards figcaption{margin-top:.45rem;color:var(--ink);overflow-wrap:anywhere}
.cards figcaption span{display:block;color:var(--muted);font-size:.8125rem}
@media (max-width:40rem){.narrow th:first-child{min-width:5.5rem;overflow-wrap:break-word}}
"""


def render(
    outcome: Outcome, matrix: np.ndarray, worst: np.ndarray, suspects: label_errors.Suspects, groups: list[dict]
) -> str:
    """Return the page, which loads nothing and runs no script.

    Args:
        outcome: what was evaluated.
        matrix: what `metrics.confusion` returned.
        worst: int [n], positions of the mistakes to show, the worst first.
        suspects: probable label errors.
        groups: what `slices.table` returned.
    """
    subject = _subject(outcome) if len(worst) else None
    suspected = suspects.example[:_SHOWN]
    # Photos take long to decode, and most of the worst mistakes are suspects too.
    small = {example: thumbnails.of_example(outcome.split, example, subject) for example in {*worst, *suspected}}
    sections = [
        ("curves", "Training", _curves(outcome)),
        ("classes", "Each class", _classes(matrix, outcome.classes)),
        ("confusion", "What is taken for what", _confusion(matrix, outcome.classes)),
        ("calibration", "How far its confidence can be trusted", _calibration(outcome)),
        ("mistakes", "Worst mistakes", _mistakes(outcome, worst, small, subject)),
        ("labels", "Probable label errors", _label_errors(outcome, suspects, small)),
        ("slices", "Kinds of images", _slices(groups)),
        ("provenance", "How this was made", _provenance(outcome)),
    ]
    shown = [f'<section id="{name}">\n<h2>{title}</h2>\n{text}</section>' for name, title, text in sections if text]
    return document.render(headline(outcome), _summary(outcome, matrix), shown, report_charts.STYLE + _STYLE)


def headline(outcome: Outcome) -> str:
    """Return the accuracy in words, with its interval."""
    result = outcome.result
    right, (low, high) = round(result["top1"] * result["examples"]), result["top1_interval"]
    counts = f"Right for {right:,} of {result['examples']:,} images"
    return f"{counts} ({_percent(result['top1'])}; 95% interval {100 * low:.1f} to {_percent(high)})"


def _percent(fraction):
    return "\u2013" if fraction != fraction else f"{100 * fraction:.1f}%"


def _paragraphs(texts: Sequence[str], css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return "".join(f"<p{kind}>{html.escape(text)}</p>\n" for text in texts if text)


# --- Headline --------------------------------------------------------------------------------------------------------


def _summary(outcome, matrix):
    result, classes = outcome.result, outcome.classes
    network = f"{_scored(result)}, {_weights(result)}." if _weights(result) else f"{_scored(result)}."
    split = f"The split {result['split']} of its data" if outcome.is_own else f"The images of {result['data_dir']}"
    pairs = [
        f"{times:,} of {matrix[label].sum():,} images of {classes[label]} are named {classes[predicted]}"
        for label, predicted, times in metrics.most_confused(matrix, 2)
    ]
    views = "each image as it is" if isinstance(outcome.split, Split) else _VIEWS[result["views"]]
    texts = [
        network,
        f"{split}, {views}. {trust(outcome)}",
        f"Most often confused: {'; '.join(pairs)}." if pairs else "No image is named wrongly.",
        f"The mean over classes, whatever their number of images, is {_percent(result['balanced_accuracy'])} "
        f"(balanced accuracy); the mean F1 is {_percent(result['macro_f1'])}.",
    ]
    warnings = []
    if result.get("data_changed"):
        warnings.append(
            "Images were added, removed or relabelled since the training, so that the network may have seen some of "
            "these images in training."
        )
    if result.get("how"):
        how = result["how"].rstrip(".")
        warnings.append(f"{how[0].upper()}{how[1:]}.")
    return _paragraphs(texts) + _paragraphs(warnings, "warning")


def _scored(result):
    if "run" in result:
        return f"Run {trained.printable(result['run'])}"
    if "runs" in result:
        return f"Ensemble of {', '.join(map(trained.printable, result['runs']))}"
    if "model" in result:
        return f"Exported model {trained.printable(result['model'])}"
    return f"Network {result['network']} with the weights {trained.printable(result['init_from'])}"


def _weights(result):
    if "weights" not in result:
        return ""
    steps = result["steps"] if isinstance(result["steps"], list) else [result["steps"]]
    after = f"after {' and '.join(f'{step:,}' for step in dict.fromkeys(steps))} steps"
    return {
        "raw": f"the last weights, {after}",
        "ema": f"the moving average of the weights, {after}",
        "best": f"the weights that were best on the validation split, {after}",
    }[result["weights"]]


def trust(outcome: Outcome) -> str:
    """Return a sentence that says whether the network, or the choice of its weights, knew the scored images."""
    result = outcome.result
    if not outcome.is_own or "network" in result:
        return "Whether the network was trained on some of them is not known."
    if result["split"] == "train":
        return "The network was trained on these images, so the figure says little about others."
    if result["split"] == "validation":
        if result.get("weights") == "best":
            return "The weights were chosen on these images, so the figure is a little too good."
        return "The network was not trained on these images, but settings may have been chosen by them."
    return "The network was not trained on these images, and its weights were not chosen on them."


# --- Curves, classes, confusion --------------------------------------------------------------------------------------


def _curves(outcome):
    if outcome.run is None:
        return ""
    try:
        read = trained.read(outcome.run.folder)
    except InputError as error:
        return _paragraphs([f"The curves cannot be read: {error}."], "note")
    note = "Training is measured on augmented images before each step, so it may lie below the held-out split."
    return report_charts.curves_of(read) + _paragraphs([note], "note")


def _classes(matrix, classes):
    found = metrics.precision_and_recall(matrix)
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(np.nan_to_num(found["f1"], nan=2.0), kind="stable")
    rows = []
    for label in order:
        support, instead = int(found["support"][label]), ""
        if wrong[label].any():
            instead = f"{classes[int(wrong[label].argmax())]} ({wrong[label].max():,})"
        interval = metrics.wilson(int(matrix[label, label]), support) if support else (0.0, 1.0)
        share = f"{_percent(found['recall'][label])} ({100 * interval[0]:.0f} to {100 * interval[1]:.0f})"
        cells = [f"{support:,}", share if support else "\u2013", _percent(found["precision"][label])]
        rows.append([classes[label], *cells, _percent(found["f1"][label]), instead])
    headers = ["Class", "Images", "Found (95% interval)", "Precision", "F1", "Most often named instead"]
    note = (
        "Found: the share of the images of a class that are named so (recall). Precision: the share of the images "
        "named so that are of the class. F1: their harmonic mean. The weakest class comes first."
    )
    return _table("Each class", headers, rows, words=(5,), css="narrow tall") + _paragraphs([note], "note")


def _table(caption, headers, rows, words=(), css="", raw=()):
    """Return a table; the columns `words` are aligned left, and the cells of `raw` are HTML already."""

    def kind(index):
        return ' class="words"' if index in (0, *words) else ""

    head = "".join(f'<th scope="col"{kind(index)}>{html.escape(text)}</th>' for index, text in enumerate(headers))
    lines = ""
    for row in rows:
        first, *others = (text if index in raw else html.escape(text) for index, text in enumerate(row))
        cells = "".join(f"<td{kind(index)}>{text}</td>" for index, text in enumerate(others, start=1))
        lines += f'<tr><th scope="row">{first}</th>{cells}</tr>\n'
    return (
        f'<div class="wide {css}" tabindex="0" role="region" aria-label="{caption}">\n'
        f"<table><caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>\n"
    )


def _confusion(matrix, classes):
    element, text = report_charts.confusion(matrix, classes)
    return element + _paragraphs([text], "note")


# --- Calibration -----------------------------------------------------------------------------------------------------


def _calibration(outcome):
    result, calibrated, right = outcome.result, outcome.calibrated, answers.right(outcome.predictions)
    probability, temperature = outcome.predictions["probability"], calibrated.temperature
    if not np.isfinite(probability).all():
        return _paragraphs(["Some answers are no numbers: the network has diverged, and its confidence means nothing."])
    mean, points = float(np.nanmean(probability)), 100 * result["ece"]
    judged = "too sure" if mean > result["top1"] else "not sure enough"
    judged = "about as sure as it is right" if abs(mean - result["top1"]) < _CLOSE else judged
    fitted = {
        "validation": "fitted on the validation split",
        "halves": "fitted on these images themselves: each half is scaled by the temperature of the other half",
    }[calibrated.fitted_on]
    texts = [
        f"On average the network is {_percent(mean)} sure of its answer, and {_percent(result['top1'])} of its answers "
        f"are right: on the whole it is {judged}. The mean gap between the two (expected calibration error) is "
        f"{points:.1f} points.",
        f"Dividing its logits by the temperature {temperature:.3g}, {fitted}, makes the gap "
        f"{100 * calibrated.error:.1f} points. It changes no answer, only how sure the network is.",
    ]
    if calibrated.error >= result["ece"]:
        texts.append("That is no improvement here, as may happen with few images or a network that was calibrated.")
    if calibration.is_bounded(temperature):
        low, high = calibration.LIMITS
        texts.append(
            f"The temperature is at the limit of what is allowed, {low:g} to {high:g}, as happens if nearly all or "
            "nearly none of the answers are right; do not rely on it."
        )
    if "run" in result and outcome.is_own:
        texts.append("evaluate --calibrate stores the temperature in the run, and export --calibrated uses it.")
    before = report_charts.reliability(probability, right, "As it is", "before-")
    after = report_charts.reliability(calibrated.probability, right, f"Temperature {temperature:.3g}", "after-")
    note = (
        "Vertical: how often answers of this confidence are right (%); larger dots stand for more images. On the "
        "dashed line confidence is kept; below it the network is too sure. Temperature scaling: Guo et al. 2017."
    )
    return f'{_paragraphs(texts)}<div class="charts">\n{before}{after}</div>\n{_paragraphs([note], "note")}'


# --- Pictures --------------------------------------------------------------------------------------------------------


def _card(urls, caption, detail):
    """Return a picture, or two, with a caption; `urls` holds (data URL, alternative text)."""
    shown = "".join(f'<img src="{url}" alt="{html.escape(text)}">' for url, text in urls)
    one = ' class="one"' if len(urls) == 1 else ""
    words = f"{html.escape(caption)}<span>{html.escape(detail)}</span>"
    return f"<figure><div{one}>{shown}</div><figcaption>{words}</figcaption></figure>\n"


def _sure(probability):
    """Return a probability in words that never says 100% or 0% of what is neither."""
    return "over 99.9%" if probability > 0.9995 else "below 0.1%" if probability < 0.0005 else _percent(probability)


def _subject(outcome):
    """Return the network of a single run, for Grad-CAM, else None."""
    result = outcome.result
    return attribution.load(result["run"], result["weights"]) if "run" in result else None


def _mistakes(outcome, worst, small, subject):
    if not len(worst):
        return _paragraphs(["There are no mistakes."])
    classes, names = outcome.classes, outcome.split.names
    shown = [small[example] for example in worst]
    predicted = [int(outcome.predictions["predicted"][example]) for example in worst]
    heats = thumbnails.heat_maps(shown, subject, predicted) if subject else [None] * len(worst)
    probabilities, cards = metrics.probabilities(outcome.logits[worst]), ""
    for example, picture, said, heat, row in zip(worst, shown, predicted, heats, probabilities, strict=True):
        name, label = trained.printable(label_errors.name_of(names, example)), outcome.split.labels[example]
        text = f"is {classes[label]} ({_sure(row[label])}), named {classes[said]} ({_sure(row[said])})"
        urls = [(thumbnails.data_url(picture.pixels), f"{name}: {text}")]
        if heat is not None:
            map_of = f"{name}: heat map of what speaks for {classes[said]}"
            urls.append((thumbnails.data_url(thumbnails.with_heat(picture, heat)), map_of))
        cards += _card(urls, text[0].upper() + text[1:], name)
    note = f"The {len(worst)} mistakes with the highest loss; in brackets, how probable the network says the class is."
    if subject:
        note += (
            " Right: where the network sees the class that it names (Grad-CAM, Selvaraju et al. 2017), light is strong"
        )
        central = "" if outcome.result["views"] == "center" else ", drawn for the central crop alone"
        note += "." if isinstance(outcome.split, Split) else f"; it sees nothing outside the frame{central}."
    return f'{_paragraphs([note], "note")}<div class="cards">\n{cards}</div>\n'


def _label_errors(outcome, suspects, small):
    classes, count = outcome.classes, len(suspects.example)
    if suspects.weak:
        note = (
            "Weak: the network was trained on these images and has learned many wrong labels by heart. These are its "
            "wrong answers with the highest loss. Score a split that it was not trained on for a better list."
        )
    else:
        note = (
            "Found by confident learning (Northcutt et al. 2021): the network is surer of another class than it is on "
            "average of the images of that class."
        )
        if not outcome.is_own or "network" in outcome.result or outcome.result.get("data_changed"):
            note += " It may have seen some of these images in training, and then it repeats their labels."
        else:
            note += " It was not trained on these images."
    if not count:
        return _paragraphs(["None are suspected.", note])
    edit = (
        f"{label_errors.FILE} lists {'this image' if count == 1 else f'all {count:,}'}. Look at each, write the right "
        "class into its column new_label, or - to leave the image out, and run:"
    )
    command = (
        "<p><code>python -m resnet_tf.relabel --labels=RUN/split.csv "
        f"--edits={label_errors.FILE} --out=labels.csv</code></p>\n"
    )
    cards, names = "", outcome.split.names
    columns = (suspects.example[:_SHOWN], suspects.suggested[:_SHOWN], suspects.confidence[:_SHOWN])
    for example, suggested, confidence in zip(*columns, strict=True):
        name, label = trained.printable(label_errors.name_of(names, example)), outcome.split.labels[example]
        text = f"Labelled {classes[label]}; the network says {classes[suggested]} ({_sure(confidence)})"
        cards += _card([(thumbnails.data_url(small[example].pixels), f"{name}: {text}")], text, name)
    return f'{_paragraphs([note, edit])}{command}<div class="cards small">\n{cards}</div>\n'


# --- Slices and provenance -------------------------------------------------------------------------------------------


def _slices(groups):
    if not groups:
        return ""
    rows = []
    for row in groups:
        words = _SLICES[row["slice"]].format(row["group"])
        bar = report_charts.bar(row["top1"], row["low95"], row["high95"])
        interval = f"{100 * row['low95']:.1f} to {100 * row['high95']:.1f}"
        rows.append([words[0].upper() + words[1:], f"{row['examples']:,}", f"{bar} {_percent(row['top1'])}", interval])
    headers = ["Images", "Number", "Right", "95% interval"]
    note = (
        "Size and brightness are split into thirds; brightness is the mean luminance. The line in a bar is the "
        "interval: where intervals overlap widely, the difference may be chance."
    )
    shown = _table("Accuracy by kind of image", headers, rows, css="narrow", raw=(2,))
    return shown + _paragraphs([note], "note")


def _provenance(outcome):
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    facts = {"Command": record.command(), "Commit": record.commit(), "Versions": record.versions(), "Made": now}
    text = document.details("This evaluation", facts, is_open=True)
    if outcome.run is not None:
        manifest = outcome.run.manifest
        keys = ("command", "commit", "created", "hardware", "versions")
        trained_by = {key.capitalize(): str(manifest[key]) for key in keys if key in manifest}
        data = manifest["data"]
        counts = ", ".join(f"{count:,} {split}" for split, count in data["examples"].items())
        trained_by["Data"] = f"{counts}; checksum {data['checksum']}"
        text += document.details(f"Training of {trained.printable(outcome.run.folder)}", trained_by)
    return text
