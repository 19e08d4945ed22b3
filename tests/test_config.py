"""Flags that are not used: what declares it, what refuses them, and what --help says of it."""

import dataclasses
import typing

import pytest

from resnet_tf import analyze, benchmark, config, train
from resnet_tf.config import fields
from resnet_tf.config.fields import GIVEN, KIND, NEVER, SET, UNSET
from resnet_tf.errors import InputError

# Of every configuration, settings that are complete as far as its checks go: each a start for the tests below.
COMPLETE = {
    config.TrainConfig: [{"dataset": "synthetic", "train_steps": 1}],
    config.ShowConfig: [{"dataset": "synthetic"}],
    config.SegmentConfig: [{"dataset": "synthetic", "train_steps": 1}],
    config.DetectConfig: [{"dataset": "synthetic", "train_steps": 1}],
    config.EvaluateConfig: [
        {"run": "x"},
        {"model": "x"},
        {"network": "x", "init_from": "x", "dataset": "synthetic", "image_size": 32},
    ],
    config.PredictConfig: [{"model": "x"}, {"run": "x"}, {"server": "x", "model_name": "x"}],
    config.AnalyzeConfig: [{}],
    config.BenchmarkConfig: [{}],
    config.CompareConfig: [{}],
    config.ConvertConfig: [{}],
    config.DataServerConfig: [{}],
    config.ExportConfig: [{}],
    config.FeaturesConfig: [{}],
    config.ModelsConfig: [{}],
    config.PrepareConfig: [{}],
    config.RelabelConfig: [{}],
    config.ScoreConfig: [{}],
    config.ServeConfig: [{"model": "x"}],
    config.SweepConfig: [{}],
    config.TransferExportConfig: [{}],
}
FORMATS = ("savedmodel", "tflite", "onnx", "keras")  # a list, whose members are checked by no `choices`
# Flags of a section that a command shares with others, of which one is not used there at all.
UNUSED = {
    (config.SegmentConfig, "data_service"),
    (config.DetectConfig, "data_service"),
    (config.BenchmarkConfig, "data_service"),
    (config.BenchmarkConfig, "freeze"),
    (config.BenchmarkConfig, "init_from"),
}
RULES = [
    (kind, name, other)
    for kind in COMPLETE
    for name, rule in fields.rules_of(kind).items()
    for other in rule
    if other != KIND and (kind, name) not in UNUSED
]


def another(config_type, name):
    """A value that is not the default."""
    field = config.fields_of(config_type)[name]
    if field.metadata["choices"]:
        return next(choice for choice in field.metadata["choices"] if choice not in (field.default, "frozen"))
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, str):
        return "x"
    if isinstance(field.default, tuple):
        sections = config.section_types(config_type).values()
        hint = next(typing.get_type_hints(one)[name] for one in sections if name in typing.get_type_hints(one))
        member = {str: "x", int: 3, float: 0.5}[typing.get_args(hint)[0]]
        return (member, member)
    return field.default + 1 if isinstance(field.default, int) else field.default / 2 + 0.25


def holds(config_type, other, wanted, values):
    default = config.fields_of(config_type)[other].default
    value = values.get(other, default)
    if wanted in (SET, UNSET):
        return (value != default) == (wanted is SET)
    return bool(set(value if isinstance(value, tuple) else (value,)) & set(wanted))


def allowed(config_type, other):
    choices = config.fields_of(config_type)[other].metadata["choices"]
    if isinstance(config.fields_of(config_type)[other].default, bool):
        return (True, False)
    if other == "format" and not choices:  # that of export, a list; that of convert has choices
        return FORMATS
    given = (GIVEN,) * (other == "dataset" and issubclass(config_type, config.TrainConfig))  # by Python, not by a flag
    return (*choices, *given)


def unused(config_type, name, other):
    """Settings in which `name` is set, and of what its use depends on, only `other` and what comes after it fail."""
    rule, found = fields.rules_of(config_type)[name], []
    for complete in COMPLETE[config_type]:
        values = complete | {name: another(config_type, name)}
        for before, wanted in rule.items():
            if before == other:
                break
            if before != KIND and not holds(config_type, before, wanted, values):
                values[before] = another(config_type, before) if wanted in (SET, UNSET) else wanted[0]
        if holds(config_type, other, rule[other], values):
            if rule[other] is SET:
                continue
            if rule[other] is UNSET:
                values[other] = another(config_type, other)
            else:
                value = next(value for value in allowed(config_type, other) if value not in rule[other])
                values[other] = (value,) if other == "format" else value
        found.append((len(values) - len(complete), values))
    return min(found, key=lambda one: one[0])[1]  # with the fewest flags added


@pytest.mark.parametrize("config_type", COMPLETE, ids=lambda kind: kind.__name__)
def test_rules_name_flags_and_values_that_exist(config_type):
    known = config.fields_of(config_type)
    assert set(fields.rules_of(config_type)) == set(known)
    for name, rule in fields.rules_of(config_type).items():
        if (config_type, name) in UNUSED:
            assert rule == NEVER or not set(rule) <= set(known)
            continue
        for other, wanted in rule.items():
            if other == KIND:
                assert wanted and set(wanted) < set(config_type.kinds), name
            else:
                assert other in known and other != name, name
                if wanted not in (SET, UNSET):
                    assert isinstance(wanted, tuple) and wanted
                    assert set(wanted) < set(allowed(config_type, other)), name


def test_every_configuration_is_looked_at():
    """Every dataclass of `config`, but for the rows of its table, is a configuration of a command or a section."""
    made = {kind for kind in vars(config).values() if dataclasses.is_dataclass(kind)} - {config.Metric, config.TaskRow}
    parts = {part for kind in COMPLETE for part in config.section_types(kind).values()}
    assert made == set(COMPLETE) | parts


@pytest.mark.parametrize(
    "config_type, name, other", RULES, ids=[f"{kind.__name__}-{name}-{other}" for kind, name, other in RULES]
)
def test_rule_refuses(config_type, name, other):
    with pytest.raises(InputError, match=rf"^--{name} (is not used by|needs) --{other}\b"):
        config.from_settings(config_type, unused(config_type, name, other), "test")


@pytest.mark.parametrize("config_type", COMPLETE, ids=lambda kind: kind.__name__)
def test_what_is_complete_is_not_refused(config_type):
    for values in COMPLETE[config_type]:
        made = config.from_settings(config_type, values, "test")
        assert config.settings_of(made).items() >= values.items()


@pytest.mark.parametrize("config_type", [config.SegmentConfig, config.DetectConfig, config.BenchmarkConfig])
def test_flag_of_another_command_is_refused(config_type):
    values = COMPLETE[config_type][0] | {"data_service": ("a:1",)}
    with pytest.raises(InputError, match=r"^--data_service is not used by this command, which has no --view$"):
        config.from_settings(config_type, values, "test")
    assert config.usage(config_type, "data_service") == "Not used by this command."


@pytest.mark.parametrize(
    "values, line",
    [
        ({"view": "random_resized_crop", "pad": 2}, "--pad is not used by --view=random_resized_crop; it needs --view="
         "pad_crop"),
        ({"temperature": 3.0}, "--temperature needs --teacher"),
        ({"data_service": ("a:1",), "view": "resize_crop", "hold_images": True}, "--data_service is not used by "
         "--hold_images"),
        ({"schedule": "cosine", "lr_factor": 0.5}, "--lr_factor is not used by --schedule=cosine; it needs --schedule="
         "steps or plateau"),
    ],
)  # fmt: skip
def test_lines_of_refusals(values, line):
    with pytest.raises(InputError) as refused:
        config.from_settings(config.TrainConfig, COMPLETE[config.TrainConfig][0] | values, "test")
    assert str(refused.value) == line


def test_smoke_is_checked_once_it_is_shrunk():
    values = {"smoke": True, "pad": 2, "view": "random_resized_crop", "train_steps": 1}
    assert config.from_settings(config.TrainConfig, values, "test").views.pad == 2


def test_configuration_of_one_section_is_that_section():
    assert config.section_types(config.ScoreConfig) == {"": config.ScoreConfig}
    made = config.from_settings(config.SweepConfig, {"grid": "x", "smoke": True}, "test")
    assert made == config.SweepConfig(grid="x", smoke=True)
    assert config.settings_of(made) == {"grid": "x", "out": "", "processes": 0, "results": "", "smoke": True}
    with pytest.raises(InputError, match="test: unknown setting lr"):
        config.from_settings(config.SweepConfig, {"lr": 1}, "test")


def test_help_says_when_flags_are_used(capsys):
    def told(main):
        assert main(["--help"]) == 0
        return " ".join(capsys.readouterr().out.split())

    text = told(train.main)
    assert "--pad Pixels added on each side before the crop. Used with --view=pad_crop. (default: 4)" in text
    assert "Used with --teacher. (default: 20.0)" in text and "resize_crop and without --hold_images." in text
    text = told(benchmark.main)
    assert "Used by inference. (default: 1,8,32)" in text and "Used by train or loop. (default: unset)" in text
    assert text.count("Not used by this command.") == 3


# --- Kinds of a command ----------------------------------------------------------------------------------------------

NETWORK = {"model", "shortcut", "graph", "zero_gamma", "initializer", "drop_path"}
STEPS = {"precision", "batch_size", "image_size", "steps", "results", "repeats"}
# What each kind uses, of the flags that not all kinds of the command use; by reading what it does.
USED = {
    "benchmark": {
        "train": NETWORK | STEPS | {"bn", "replicas", "gpus", "deterministic", "peers", "lock"},
        "loop": NETWORK | STEPS | {"bn", "replicas", "gpus", "deterministic", "steps_per_call"},
        "build": {"model", "peers", "repeats"},
        "input": {"peers", "data_dir", "peers_data_dir", "image_size", "steps", "results", "repeats"},
        "augment": NETWORK | STEPS,
        "evaluate": NETWORK | STEPS | {"replicas", "data_dir"},
        "inference": NETWORK
        | {
            "peers",
            "data_dir",
            "model_dir",
            "formats",
            "activations",
            "batches",
            "image_size",
            "steps",
            "results",
            "repeats",
        },
        "serving": {"data_dir", "model_dir", "clients", "steps"},
    },
    "analyze": {
        "responses": {"csv", "weights", "data_dir", "examples"},
        "gradients": {"csv", "data_dir", "dataset", "image_size", "batch_size", "seeds", "zero_gamma"},
        "activations": {"run", "weights", "channels"},
        "grad_cam": {"run", "weights", "class_name"},
        "label_errors": {"weights", "data_dir"},
    },
}
ALWAYS = {"benchmark": set(), "analyze": {"out"}}
COMMANDS = {"benchmark": (benchmark, config.BenchmarkConfig), "analyze": (analyze, config.AnalyzeConfig)}
PAIRS = [
    (command, kind, flag)
    for command, kinds in USED.items()
    for kind, used in kinds.items()
    for flag in config.fields_of(COMMANDS[command][1])
    if flag not in used | ALWAYS[command]
]


@pytest.mark.parametrize("command, kind, flag", PAIRS)
def test_flag_that_a_kind_does_not_use_is_refused(command, kind, flag, capsys):
    main, config_type = COMMANDS[command][0].main, COMMANDS[command][1]
    value = another(config_type, flag)
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value).lower() if value is True else value
    assert main([kind, f"--{flag}={text}"]) == 1
    captured = capsys.readouterr()
    by = "this command" if flag == "data_service" else f"{command} {kind}"
    assert captured.out == "" and captured.err.splitlines()[-1].startswith(f"error: --{flag} is not used by {by}")


@pytest.mark.parametrize("command, kind", [(command, kind) for command in USED for kind in USED[command]])
def test_kind_takes_all_that_it_uses(command, kind):
    config_type, used = COMMANDS[command][1], USED[command][kind] | ALWAYS[command]
    described = {"model_dir"} | NETWORK | {"image_size", "activations"}
    for left_out in ({"model_dir"}, described - {"model_dir"}) if "model_dir" in used else (set(),):
        values = {name: another(config_type, name) for name in used - left_out}
        config.check_kind(config.from_settings(config_type, values, "test"), kind)


@pytest.mark.parametrize("command", USED)
def test_kinds_are_those_of_the_table(command, capsys):
    module, config_type = COMMANDS[command]
    assert config_type.kinds == tuple(USED[command])
    for kind in ("", "fly"):
        assert module.main([kind] * bool(kind)) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"error: {command} {kind}".strip() + f": say {config_type.kinds[0]}, ")


def test_benchmark_has_a_function_for_each_kind():
    assert tuple(benchmark._KINDS) == config.BenchmarkConfig.kinds
