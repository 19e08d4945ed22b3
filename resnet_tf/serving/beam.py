"""Classify images in a pipeline of Apache Beam, for collections that many machines share; see docs/serving.md.

    with beam.Pipeline(options=options) as pipeline:
        names = pipeline | fileio.MatchFiles("photos/**.jpg") | fileio.ReadMatches()
        contents = names | beam.Map(lambda file: (file.metadata.path, file.read()))
        contents | Classify("/models/resnet") | beam.io.WriteToText("answers", ".jsonl")

Only this module imports Apache Beam, so that nothing else needs the extra `beam`.
"""

from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.utils.shared import Shared

from resnet_tf.errors import InputError
from resnet_tf.serving import predict, runtimes


class Classify(beam.PTransform):
    """From (name, content of an image file) to a line of JSON each, as of `predict --format=jsonl`.

    Elements of a bundle are put into batches. Threads of a worker process share one copy of the model. A file that is
    not an image becomes a line with "error"; the pipeline goes on.
    """

    def __init__(self, model: str, top_k: int = 0, batch_size: int = 32):
        """Say what classifies.

        Args:
            model: what `runtimes.load` takes, at the same path on every worker.
            top_k: number of classes of a line; see `runtimes.load`.
            batch_size: most images of a batch; fewer if the model takes fewer.

        Raises:
            InputError: `batch_size` is not positive.
        """
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}: not a positive number")
        self._model, self._top_k, self._batch_size = model, top_k, batch_size

    def expand(self, images: beam.PCollection) -> beam.PCollection:
        """Build the steps of the pipeline."""
        batches = images | beam.BatchElements(1, self._batch_size)
        return batches | beam.ParDo(_Classify(self._model, self._top_k)).with_output_types(str)


class _Classify(beam.DoFn):
    """Classify batches."""

    def __init__(self, model, top_k):
        self._path, self._top_k, self._shared = model, top_k, Shared()

    def setup(self):
        """Load the model, once in a process; Beam calls this once for each thread of a worker."""
        self._model = self._shared.acquire(lambda: runtimes.load(self._path, self._top_k), tag=self._path)

    def process(self, batch: Iterable[tuple[str, bytes]]) -> Iterator[str]:
        """Yield a line for each image of a batch, in order."""
        for name, predictions, error in predict.classify_contents(self._model, batch):
            yield from predict.lines("jsonl", name, predictions, error)
