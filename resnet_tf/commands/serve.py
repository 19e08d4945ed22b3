"""Serve a model as a local web page and a REST endpoint: `python -m resnet_tf.serve --model=DIR`."""

import dataclasses
import gc
import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError

_NEEDED = {"fastapi", "starlette", "uvicorn", "python_multipart"}


def main(argv=None) -> int:
    """Run the command and return its exit code."""
    description = (
        "Serve an exported model or a run: a web page that classifies pictures, POST /classify, and the REST interface "
        "of TensorFlow Serving. SIGINT (Ctrl-C) or SIGTERM ends it."
    )
    return command.launch(description, config.ServeConfig, _run, argv)


def _run(settings, _):
    try:
        import python_multipart  # noqa: F401 (which FastAPI reads uploads with)

        from resnet_tf.serving import server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        raise InputError("serve needs FastAPI and uvicorn: pip install 'resnet_tf[serve]'") from None
    from resnet_tf.runs import signals
    from resnet_tf.serving import servable

    stop = signals.Stop()
    with stop.listening():
        bound, address = server.bind(settings.host, settings.port)
        with bound:
            model = servable.load(settings.model)
            servable.warm_up(model)
            service = server.Service(settings, model, _explainer(settings.model))
            gc.freeze()  # what is loaded stays: to search it for garbage costs seconds, at the end too
            if not stop.name:
                server.Server(service, bound, address, settings.max_waiting).serve_until_stopped()
    return {"model": settings.model, "address": address, "images": service.images, "batches": service.batcher.batches}


def _explainer(path):
    """Return the `heat.Explainer` of a model, or the reason why there is none."""
    from resnet_tf.evaluation import attribution
    from resnet_tf.runs import versions
    from resnet_tf.serving import heat, runtimes

    if runtimes.is_run(path):
        subject = attribution.load(path)
    elif (versions.locate(path) / versions.SAVED_MODEL).is_file():
        try:
            subject = _exported(path)
        except InputError as error:
            return f"the network cannot be rebuilt: {error}"
    else:
        return "it needs the network itself: serve a SavedModel or a run folder"

    def explain(view, class_name):
        return attribution.grad_cam(subject, view, class_name).heat

    view = (subject.size, subject.resize, subject.exif, subject.interpolation)
    return heat.Explainer(explain, subject.classes, *view)


def _exported(path):
    """Rebuild the network of a SavedModel; return an `attribution.Subject`."""
    from resnet_tf.evaluation import attribution
    from resnet_tf.runs import network

    theirs, _ = network.describe_exported("model", path)
    size = config.evaluation_size(theirs.data)
    data, device = (
        dataclasses.replace(theirs.data, image_size=size),
        dataclasses.replace(theirs.device, precision="float32"),
    )
    trained = network.load("model", str(path), dataclasses.replace(theirs, data=data, device=device))
    view = (size, theirs.data.resize, theirs.data.exif, theirs.data.interpolation)
    return attribution.Subject(trained.model, trained.normalization, trained.classes, *view)


if __name__ == "__main__":
    sys.exit(main())
