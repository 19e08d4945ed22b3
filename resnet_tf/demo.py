"""The whole way in one command: train on digits, evaluate, export, classify three files.

`python -m resnet_tf.demo --flagfile=flags/demo.cfg` does what these do one after another:
`resnet_tf.train`, `resnet_tf.evaluate`, `resnet_tf.export`, `resnet_tf.predict`.
"""

import dataclasses
import pathlib
import shutil
import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Train, evaluate, export and classify, and say where everything is."
    return command.launch(description, config.TrainConfig, _run, argv)


def _run(settings, _):
    import tensorflow as tf

    from resnet_tf.evaluation import evaluate
    from resnet_tf.serving import export, predict, runtimes
    from resnet_tf.training import feed, loop

    run = loop.run_folder(settings)
    trained = loop.train(settings)
    evaluation = config.EvaluationSection(run=str(run))
    scores = evaluate.evaluate(config.EvaluateConfig(evaluation))

    exported = pathlib.Path(f"{run}-savedmodel")
    shutil.rmtree(exported, ignore_errors=True)  # of a demo before this one
    export.export(config.ExportConfig(config.ExportSection(run=str(run), out=str(exported))))

    source, _ = feed.load(dataclasses.replace(settings, data=dataclasses.replace(settings.data, validation_examples=0)))
    test = source.splits["test"]
    folder = pathlib.Path(f"{run}-images")
    folder.mkdir(exist_ok=True)
    files = []
    for index in range(3):
        file = folder / f"test{index}_is_{source.classes[test.labels[index]]}.png"
        file.write_bytes(tf.io.encode_png(test.images[index]).numpy())
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
