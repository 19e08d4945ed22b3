"""JSON that every reader takes: of commands, files and lines, null for what is no number."""

import json
import math

import numpy as np
import pytest

from resnet_tf import command, config, files
from resnet_tf.data import shards
from resnet_tf.serving import card, predict

ODD = {"loss": math.inf, "ece": math.nan, "low": -math.inf, "parts": [1.5, (math.nan, {"deep": np.float64("inf")})]}
PLAIN = {"loss": None, "ece": None, "low": None, "parts": [1.5, [None, {"deep": None}]]}


def strictly(text):
    """What a reader makes of JSON that knows no NaN and no infinity."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_none_become_null():
    assert strictly(files.to_json(ODD)) == PLAIN
    assert files.to_json({"a": [1, True, None, "NaN", 0.1]}) == '{"a": [1, true, null, "NaN", 0.1]}'
    with pytest.raises(TypeError):
        files.to_json({"a": object()})


@pytest.mark.parametrize("write", [files.write_json, shards.replace_json])
def test_files_are_strict(write, tmp_path):
    write(tmp_path / "evaluation.json", ODD)
    assert strictly((tmp_path / "evaluation.json").read_text()) == PLAIN


def test_the_last_line_of_a_command_is_strict(capsys):
    assert command.launch("Test.", config.ConvertConfig, lambda settings, _: ODD, []) == 0
    assert strictly(capsys.readouterr().out.strip().splitlines()[-1]) == PLAIN


def test_lines_of_predictions_are_strict():
    (line,) = predict.lines("jsonl", "a.png", [("cat", math.nan), ("dog", 0.5)], None)
    named = [{"class": "cat", "probability": None}, {"class": "dog", "probability": 0.5}]
    assert strictly(line) == {"file": "a.png", "predictions": named}


def test_a_card_says_that_a_loss_was_not_finite(tmp_path):
    """As `card.describe` reads it from an evaluation.json whose loss is null."""
    described = {
        "model": "m", "version": 1, "classes": ["a"], "cost": {"parameters": 1, "parameters_mib": 1.0, "gmacs": 1,
        "gflops": 2}, "precision": "float32", "activations": "float32", "formats": [], "signatures": [],
        "compile": "none", "batch_sizes": [], "input": "float32",
        "weights": "raw", "steps": 1, "licence": "", "intended_use": "", "image_size": 8,
        "data": {"dataset": "d", "examples": {"test": 1}, "checksum": "0"},
        "preprocessing": {"mean": [0.0], "std": [1.0], "words": []}, "limits": {"image_formats": [], "max_pixels": 1},
        "accuracy": {"top1": 1.0, "top5": 1.0, "loss": None, "examples": 1, "split": "test", "views": "center"},
        "commit": "", "command": "", "manifest": {"commit": "", "command": ""},
    }  # fmt: skip
    card.write(tmp_path, described)
    assert "loss not finite on 1 examples" in (tmp_path / card.READABLE).read_text()
