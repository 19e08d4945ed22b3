"""Classify image files: `python -m resnet_tf.predict --model=DIR FILE_OR_FOLDER...`."""

import pathlib
import sys

from resnet_tf import command, config, files
from resnet_tf.errors import InputError

_FORMATS = {".csv": "csv", ".jsonl": "jsonl"}  # {suffix of --out: format}


def main(argv=None) -> int:
    """Run the command and return its exit code."""
    description = (
        "Classify image files with an exported model, here or on a server. Arguments are files, folders, patterns "
        "such as 'photos/**/*.jpg', or - for paths from standard input. Other files are reported and skipped."
    )
    return command.launch(description, config.PredictConfig, _run, argv, positional="FILE_OR_FOLDER...")


def _run(settings, arguments):
    if not arguments:
        raise InputError("no files were named: predict --model=DIR FILE_OR_FOLDER...")
    out = pathlib.Path(settings.out) if settings.out else None
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out={out}: " + ("a folder, not a file" if out.is_dir() else "its folder does not exist"))
    from resnet_tf.data.progress import Progress
    from resnet_tf.serving import client, predict, runtimes

    paths = predict.find_images(arguments, sys.stdin if "-" in arguments else ())
    if settings.model:
        model = runtimes.load(settings.model, settings.top_k)
    else:
        model = client.connect(settings.server, settings.model_name, settings.timeout, settings.top_k)
    form = settings.format or _FORMATS.get(out.suffix if out else "", "table")
    width = max(map(len, paths)) if form == "table" else 0
    written = [predict.csv_line(predict.CSV_COLUMNS)] if form == "csv" else []
    progress = Progress("classifying", len(paths))
    predictions, failed = [], []

    def write(lines):
        if out:
            written.extend(lines)
        else:
            print("\n".join(lines), flush=True)

    if written and not out:
        write(written)
    try:
        for path, best, error in predict.classify_files(model, paths, settings.batch_size):
            if error:
                failed.append(error)
                print(f"warning: {error}", file=sys.stderr, flush=True)
            else:
                predictions.append({"file": path, "class": best[0][0], "probability": round(best[0][1], 6)})
            if not error or out or form != "table":  # a table on the terminal shows the warning alone
                write(predict.lines(form, path, best, error, width))
            if out or not sys.stdout.isatty():
                progress.add(1)
    except InputError as error:
        done = len(predictions) + len(failed)
        raise InputError(f"{error}" + (f"; {done} of {len(paths)} files were done before" if done else "")) from None
    finally:
        progress.end()
        if out and (predictions or failed):  # keep the predictions made before an error
            text = "".join(f"{line}\n" for line in written)
            files.replace_atomically(out, lambda file: file.write(text.encode()))
    if not predictions:
        raise InputError(f"none of {len(paths)} files could be classified; the first: {failed[0]}")
    result = {"model": settings.model or f"{settings.server} {settings.model_name}"}
    result |= {"images": len(predictions), "failed": len(failed)}
    if out:
        return result | {"out": str(out)}
    return result if settings.format else result | {"predictions": predictions}


sys.modules[__name__].__class__ = command.Callable  # `resnet_tf.predict(...)`

if __name__ == "__main__":
    sys.exit(main())
