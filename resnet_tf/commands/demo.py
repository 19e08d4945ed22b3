"""Run the whole workflow: train on digits, evaluate, export, classify three files.

`python -m resnet_tf.demo` does the same as `resnet_tf.train`, `resnet_tf.evaluate`, `resnet_tf.export` and
`resnet_tf.predict` in turn. The default recipe, flags/demo.cfg, takes minutes; `--smoke` shrinks it to seconds.
"""

import dataclasses
import pathlib
import shutil
import sys

from resnet_tf import command, config


def main(argv=None) -> int:
    """Run the command and return its exit code."""
    description = (
        "Train, evaluate, export and classify, and print where the results are; the default recipe is flags/demo.cfg, "
        "on handwritten digits."
    )
    flags = sys.argv[1:] if argv is None else argv
    if not any(flag.lstrip("-").startswith(("flagfile", "recipe")) for flag in flags):
        flags = ["--recipe=demo", *flags]
    return command.launch(description, config.TrainConfig, _run, flags)


def _run(settings, _):
    import tensorflow as tf

    from resnet_tf import tasks
    from resnet_tf.data.splits import Split
    from resnet_tf.evaluation import evaluate
    from resnet_tf.runs import record, run_data
    from resnet_tf.serving import export, predict, runtimes
    from resnet_tf.training import loop

    trained = loop.train(tasks.of(settings))
    run = pathlib.Path(trained["run"])
    settings = record.open_run(run).config  # --smoke changes it
    evaluation = config.EvaluationSection(run=str(run))
    scores = evaluate.evaluate(config.EvaluateConfig(evaluation))

    exported = pathlib.Path(f"{run}-savedmodel")
    shutil.rmtree(exported, ignore_errors=True)  # of an earlier demo
    export.export(config.ExportConfig(run=str(run), out=str(exported)))

    data = dataclasses.replace(settings.data, validation_examples=0)
    source, _ = run_data.load(dataclasses.replace(settings, data=data))
    test = source.splits["test"]
    folder = pathlib.Path(f"{run}-images")
    folder.mkdir(exist_ok=True)
    files = []
    for index in range(3):
        file = folder / f"test{index}_is_{source.classes[test.labels[index]]}.png"
        is_decoded = isinstance(test, Split)  # other splits read encoded files, whatever their format
        file.write_bytes(tf.io.encode_png(test.images[index]).numpy() if is_decoded else test.read(index))
        files.append(file)

    print(f"\nTrained {settings.model.model} for {trained['steps']} steps in {trained['wall_seconds']:.0f} s")
    print(f"  test top-1        {scores['top1']:.4f} of {scores['examples']} images")
    print(f"  run               {run}/  (manifest.yaml, metrics.csv, checkpoints/, evaluation.json)")
    print(f"  curves            tensorboard --logdir {run}/events")
    print(f"  exported model    {exported}/")
    for file, best, error in predict.classify_files(runtimes.load(exported), files):
        print(f"  {file}  {error or f'{best[0][0]} ({best[0][1]:.4f})'}")
    return {name: scores[name] for name in ("examples", "top1", "top5", "loss")}


if __name__ == "__main__":
    sys.exit(main())
