"""Classification in a pipeline of Apache Beam."""

import json

import numpy as np
import pytest

from resnet_tf import export, train
from resnet_tf.data import images
from resnet_tf.errors import InputError
from resnet_tf.serving import predict, runtimes

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")
beam = pytest.importorskip("apache_beam", reason="the extra beam is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An export that takes at most two images at a time."""
    folder = tmp_path_factory.mktemp("beam")
    flags = ["--dataset=synthetic", "--view=random_resized_crop", "--image_size=24", "--resize=28", "--batch_size=4"]
    flags += ["--model=cifar_resnet8_v1", "--train_steps=2", "--validation_examples=8"]
    assert train.main([*flags, f"--out={folder}/run"]) == 0
    assert export.main([f"--run={folder}/run", f"--out={folder}/xla", "--compile=xla", "--batch_sizes=1,2"]) == 0
    return folder / "xla"


def test_workers_give_the_lines_of_predict(model, tmp_path, rng):
    from resnet_tf.serving.beam import Classify

    contents = [images.encode_png(rng.integers(0, 256, (30, 33, 3), np.uint8)) for _ in range(9)] + [b"no image"]
    for index, content in enumerate(contents):
        (tmp_path / f"{index}.png").write_bytes(content)
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    with beam.Pipeline("DirectRunner", options=beam.options.pipeline_options.PipelineOptions(options)) as pipeline:
        named = [(str(tmp_path / f"{index}.png"), content) for index, content in enumerate(contents)]
        lines = pipeline | beam.Create(named) | Classify(str(model), top_k=2, batch_size=4)
        lines | beam.io.WriteToText(str(tmp_path / "answers"), ".jsonl")
    found = [line for part in tmp_path.glob("answers*.jsonl") for line in part.read_text().splitlines()]
    paths = sorted(tmp_path.glob("*.png"))
    expected = predict.classify_files(runtimes.load(model, 2), paths)
    by_file = {json.loads(line)["file"]: json.loads(line) for line in found}
    assert len(found) == len(by_file) == 10
    for path, predictions, error in expected:
        if error:
            assert by_file[str(path)] == {"file": str(path), "error": str(error)}
        else:
            assert [one["class"] for one in by_file[str(path)]["predictions"]] == [name for name, _ in predictions]
            scores = [one["probability"] for one in by_file[str(path)]["predictions"]]
            np.testing.assert_allclose(scores, [score for _, score in predictions], atol=1e-5)


def test_a_batch_without_images_is_refused():
    from resnet_tf.serving.beam import Classify

    with pytest.raises(InputError, match="batch_size=0: not a positive number"):
        Classify("model", batch_size=0)
