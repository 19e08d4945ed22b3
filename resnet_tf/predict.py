"""Classify image files: `python -m resnet_tf.predict --model=DIR FILE...`."""

import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def main(argv=None):
    """Run the command; returns its exit code."""
    return command.launch("Classify image files.", config.PredictConfig, _run, argv, positional="FILE...")


def _run(settings, paths):
    if not settings.prediction.model:
        raise InputError("--model is not set: the folder of an exported model")
    if not paths:
        raise InputError("no files were named: predict --model=DIR FILE...")
    from resnet_tf.serving import predict

    signature = predict.load(settings.prediction.model)
    width = max(len(str(path)) for path in paths)
    answers, failed = [], []
    for path, best, error in predict.classify_files(signature, paths):
        if error:
            failed.append(str(error))
            continue
        print(f"{path!s:{width}}  " + "  ".join(f"{name} {score:.4f}" for name, score in best))
        answers.append({"file": str(path), "class": best[0][0], "probability": round(best[0][1], 6)})
    if failed:
        raise InputError(f"{len(failed)} of {len(paths)} files were not classified: {'; '.join(failed)}")
    return {"model": settings.prediction.model, "images": len(answers), "predictions": answers}


if __name__ == "__main__":
    sys.exit(main())
