"""Classify image files: `python -m resnet_tf.predict --model=DIR FILE_OR_FOLDER...`."""

import itertools
import pathlib
import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError

_NAME_WIDTH = 20  # of names that are not known yet, in the table of a folder that is empty at first


def main(argv=None) -> int:
    """Run the command and return its exit code."""
    description = (
        "Classify image files with an exported model or a run, here or on a server. Arguments are files, folders, "
        "patterns such as 'photos/**/*.jpg', or - for paths from standard input. Other files are reported and skipped."
    )
    return command.launch(description, config.PredictConfig, _run, argv, positional="FILE_OR_FOLDER...")


def _run(settings, arguments):
    if not arguments:
        raise InputError("no files were named: predict --model=DIR FILE_OR_FOLDER...")
    out = pathlib.Path(settings.out) if settings.out else None
    if out and (out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out={out}: " + ("a folder, not a file" if out.is_dir() else "its folder does not exist"))
    from resnet_tf.runs import signals
    from resnet_tf.serving import predict, sharding

    shard = sharding.parse(settings.shard, out) if settings.shard else None
    names = predict.expand(arguments, sys.stdin if "-" in arguments else ())
    folders = [name for name in names if pathlib.Path(name).is_dir()]
    if settings.watch and not folders:
        raise InputError(f"--watch: no folder to watch among {', '.join(names)}")
    paths = predict.images_of(names, allow_empty=settings.watch)
    form = settings.format or predict.FORMATS.get(out.suffix if out else "", "table")
    if shard:
        return _shard(settings, shard, shard.files_of(paths), form)
    stop = signals.Stop()
    if not settings.watch:
        model = _load(settings)
        output = predict.Output(out, form, max(map(len, paths)))
        _classify(settings, model, paths, output)
        if not output.images:
            raise InputError(f"none of {len(paths)} files could be classified; the first: {output.failed[0]}")
    else:
        with stop.listening():
            output = _watch(settings, folders, paths, stop, out, form)
    return _counts(settings, output, out)


def _counts(settings, output, out):
    """Return the last line of stdout."""
    counts = dict(sorted(output.classes.items(), key=lambda item: (-item[1], item[0])))
    result = {"model": _named(settings), "images": output.images, "failed": len(output.failed), "classes": counts}
    return result | ({"out": str(out)} if out else {})


def _named(settings):
    return settings.model or settings.run or f"{settings.server} {settings.model_name}"


def _shard(settings, shard, paths, form):
    """Classify a part of the files, unless that is done already; its file appears when it is complete."""
    from resnet_tf.serving import predict

    done = shard.finished(_named(settings), paths)
    if done:
        print(f"{shard.manifest}: this part is done", file=sys.stderr, flush=True)
        return done
    output = predict.Output(shard.out, form, max(map(len, paths), default=0))
    _classify(settings, _load(settings), paths, output, in_part=False)
    output.save()
    return shard.finish(paths, _counts(settings, output, shard.out))


def _load(settings):
    """Return the model that the flags name; see `runtimes` and `client`."""
    from resnet_tf.serving import client, runtimes

    if settings.run:
        return runtimes.Run(settings.run, settings.top_k, settings.weights)
    if settings.model:
        return runtimes.load(settings.model, settings.top_k, settings.runtime)
    return client.connect(settings.server, settings.model_name, settings.timeout, settings.top_k)


def _classify(settings, model, paths, output, stop=None, in_part=True):
    """Classify files, and with `in_part` save what was found even where an error or a signal ends the work."""
    from resnet_tf.data.progress import Progress
    from resnet_tf.serving import predict

    progress, done, is_shown = Progress("classifying", len(paths)), 0, settings.out or not sys.stdout.isatty()
    results = predict.classify_files(model, paths, settings.batch_size)
    try:
        for result in itertools.takewhile(lambda _: not (stop and stop.name), results):
            output.add(*result)
            done += 1
            if is_shown:
                progress.add(1)
    except InputError as error:
        raise InputError(f"{error}" + (f"; {done} of {len(paths)} files were done before" if done else "")) from None
    finally:
        results.close()
        progress.end()
        if done and in_part:
            output.save()


def _watch(settings, folders, paths, stop, out, form):
    """Classify the named files, then new ones until a signal comes; return the `predict.Output`."""
    from resnet_tf.serving import predict, watch

    watching = watch.Watch(folders, paths)  # before the files are read: what changes from now on is new
    model = _load(settings)
    width = max(map(len, paths), default=max(map(len, folders)) + _NAME_WIDTH)
    output = predict.Output(out, form, width)
    _classify(settings, model, paths, output, stop)
    output.save()
    print(f"watching {', '.join(folders)}; Ctrl-C ends", file=sys.stderr, flush=True)
    for ready in watching.until(lambda: bool(stop.name)):
        _classify(settings, model, ready, output, stop)
    return output


sys.modules[__name__].__class__ = command.Callable  # `resnet_tf.predict(...)`

if __name__ == "__main__":
    sys.exit(main())
