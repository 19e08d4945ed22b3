"""What a classification training says at its end: how good the network is, where to look, and what to do next."""

import shlex

from resnet_tf.errors import InputError
from resnet_tf.evaluation import answers, evaluate, metrics


def conclude(run, result: dict, has_page: bool) -> list[str]:
    """Return sentences about a finished run, and write its page.

    Args:
        run: the `record.Run`.
        result: of `loop.train`.
        has_page: whether to write a page.
    """
    lines = [_score(result, result["split"], result["weights"] == "best")]
    if "test" in result:
        lines.append(_score(result["test"], "test", False))
    lines += _confused(run)
    if "ended" in result:
        lines.append(f"Training ended early: {result['ended']}.")
    if has_page:
        lines.append(f"Look at  {_write_page(run, result)}")
    folder, model = shlex.quote(str(run.folder)), shlex.quote(f"{run.folder}-model")
    lines.append(f"Next     python -m resnet_tf.export --run={folder} --out={model}")
    lines.append(f"         python -m resnet_tf.serve --model={model}")
    return lines


def _score(scores, split, is_chosen):
    """Return accuracy and interval of a split in a sentence."""
    count = scores["examples"]
    right = round(scores["top1"] * count)
    low, high = metrics.wilson(right, count)
    sentence = f"Right for {right:,} of {count:,} {split} images: {100 * scores['top1']:.1f}% "
    sentence += f"(95% interval {100 * low:.0f} to {100 * high:.0f}%)."
    if is_chosen:
        sentence += " The weights were chosen on these images, so expect slightly less on new ones."
    return sentence


def _confused(run):
    """Return the two most confused pairs of classes of the held-out split in a sentence."""
    predictions, classes = answers.read(run.folder / answers.FILE), run.manifest["classes"]
    matrix = metrics.confusion(predictions["predicted"], predictions["label"], len(classes))
    pairs = metrics.most_confused(matrix, 2)
    if not pairs:
        return []
    words = [f"{classes[label]} taken for {classes[other]} ({_times(times)})" for label, other, times in pairs]
    return [f"Most often confused: {', '.join(words)}."]


def _times(count):
    return "once" if count == 1 else f"{count} times"


def _write_page(run, result):
    try:
        return evaluate.write_for_run(run.folder, run.folder / "report", result["split"])
    except InputError as error:  # matplotlib is an extra
        return f"nothing: no page was written: {error}"
