"""Flags from dataclasses: `setting` declares a field that is also a command-line flag of the same name.

A section is a dataclass whose fields are flags; its docstring titles a group of `--help`. A configuration is either a
section or a dataclass of sections. `used_with` of a `setting` declares once when a flag is used: `check_used` refuses
the flag otherwise, and `--help` prints the rule.
"""

import dataclasses
import difflib
import math
import os
import typing

from absl import flags

from resnet_tf.errors import InputError

# Values in `used_with`: the other flag differs from its default, or equals it.
SET, UNSET = object(), object()
# Key in `used_with`, in place of another flag: the first argument of the command, such as "train" of `benchmark train`.
KIND = "kind"
NEVER = {KIND: ()}
# --dataset of a run whose data were passed from Python, where alone it is allowed: no command can read them again.
GIVEN = "given"

# {other name that users know: our flag}, where a command has no flag of that other name.
SYNONYMS = {
    "epochs": "train_epochs", "steps": "train_steps", "batch": "batch_size", "bs": "batch_size", "learning_rate": "lr",
    "wd": "weight_decay", "data": "data_dir", "data_path": "data_dir", "arch": "model", "imgsz": "image_size",
    "img_size": "image_size", "workers": "threads", "num_workers": "threads", "output": "out", "output_dir": "out",
    "pretrained": "init_from",
}  # fmt: skip

_SAME = object()


def setting(default, help, *, choices=None, low=None, high=None, used_with=None, changes_result=True, earlier=_SAME):
    """Declare a dataclass field that is a flag.

    Args:
        default: value of the flag when it is not given; None where it must be given.
        help: one or two short sentences, with unit and source.
        choices: the allowed strings; None for any.
        low: the smallest allowed number.
        high: the largest allowed number.
        used_with: {other flag: tuple of its values, SET or UNSET}: the flag is used only where every entry holds. A
            list flag matches if one of its items is in the tuple. The key KIND lists kinds of the command. None: the
            flag is always used.
        changes_result: whether resuming a run with another value is refused.
        earlier: value to assume for manifests written before the flag existed, if not the default; or a function of
            the recorded settings {flag: value} that returns it.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "changes_result": changes_result}
    metadata["used_with"] = used_with or {}
    metadata["earlier"] = default if earlier is _SAME else earlier
    return dataclasses.field(default=default, metadata=metadata)


def listed(values) -> str:
    """Return values joined by commas, as a flag takes them."""
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def section_types(config_type: type) -> dict[str, type]:
    """Return {attribute: section class} of a configuration class, or {"": config_type} if it is itself a section."""
    hints = typing.get_type_hints(config_type)
    sections = {field.name: hints[field.name] for field in dataclasses.fields(config_type)}
    return sections if all(map(dataclasses.is_dataclass, sections.values())) else {"": config_type}


def settings_of(config) -> dict:
    """Flatten a configuration into {flag name: value}, in the order of declaration."""
    return {
        field.name: getattr(section, field.name)
        for section in (getattr(config, name) if name else config for name in section_types(type(config)))
        for field in dataclasses.fields(section)
    }


def fields_of(config_type: type) -> dict[str, dataclasses.Field]:
    """Return the fields of all sections, {flag name: field}."""
    sections = section_types(config_type).values()
    return {field.name: field for section in sections for field in dataclasses.fields(section)}


def from_settings(config_type: type, values: dict, origin, recorded: bool = False):
    """Build a configuration from {flag name: value}.

    Args:
        config_type: a section, or a dataclass of sections, such as `TrainConfig`.
        values: settings; missing ones take their defaults.
        origin: file, or "the flags", to name in an error.
        recorded: whether the values come from a manifest, perhaps of an earlier release: missing settings then take
            `earlier` of their `setting`.

    Raises:
        InputError: an unknown setting, or a combination that cannot work.
    """
    if recorded:
        fields = fields_of(config_type)
        missing = {name: fields[name].metadata["earlier"] for name in fields if name not in values}
        values = {name: then(values) if callable(then) else then for name, then in missing.items()} | values
    known = fields_of(config_type)
    values = {name if name in known else SYNONYMS.get(name, name): value for name, value in values.items()}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"{origin}: unknown setting {', '.join(unknown)}; the nearest is {nearest(unknown[0], known)}")
    if values.get("auto") and not recorded:  # what is given is not chosen
        chosen = _of_type(fields_of(config_type)["auto"], tuple[str, ...], values["auto"], origin)
        values = values | {"auto": tuple(name for name in chosen if name not in values)}
    sections = {}
    for name, section in section_types(config_type).items():
        hints = typing.get_type_hints(section)
        fields = {field.name: field for field in dataclasses.fields(section)}
        given = {key: _of_type(fields[key], hints[key], values[key], origin) for key in hints if key in values}
        if not recorded:  # an earlier release may have had other choices
            for key, value in given.items():
                _check_value(fields[key], value, origin)
        sections[name] = section(**given)
    return sections[""] if "" in sections else config_type(**sections)


def _of_type(field, hint, value, origin):
    """Return a tuple for a list, or for text with commas, where a setting is a tuple; other values as they are."""
    if typing.get_origin(hint) is not tuple:
        return os.fspath(value) if isinstance(value, os.PathLike) else value
    try:
        return tuple(_ListParser(typing.get_args(hint)[0]).parse(value))
    except (TypeError, ValueError) as error:
        raise InputError(f"{origin}: {field.name}={value}: {error}") from None


def _check_value(field, value, origin):
    """Refuse a value that the flag of the field would refuse, with an InputError."""
    choices, low, high = (field.metadata[name] for name in ("choices", "low", "high"))
    is_given = field.name == "dataset" and value == GIVEN
    if choices and value not in choices and not is_given:
        raise InputError(f"{origin}: {field.name}={value}: not one of {', '.join(filter(None, choices))}")
    low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    if isinstance(value, int | float) and not low <= value <= high:
        raise InputError(f"{origin}: {field.name}={value}: not in the range {low} to {high}")


def nearest(name: str, known) -> str:
    """Return the known name that looks most like another name, or contains it."""
    containing = [one for one in known if name in one.split("_")]
    return (containing or difflib.get_close_matches(name, known, n=1, cutoff=0))[0]


def rules_of(config_type: type) -> dict[str, dict]:
    """Return the rules of all flags, {flag name: its `used_with`, {} if always used}.

    A class attribute `used_with` of the configuration, {flag name: rule}, overrides the declared rules, for sections
    that commands share.
    """
    declared = {name: field.metadata["used_with"] for name, field in fields_of(config_type).items()}
    return declared | getattr(config_type, "used_with", {})


def check_used(config, kind: str | None = None) -> None:
    """Refuse flags that differ from their defaults although the configuration, or a kind of its command, ignores them.

    Raises:
        InputError: names the flag, and the setting that it conflicts with or needs.
    """
    fields, values = fields_of(type(config)), settings_of(config)
    for name, rule in rules_of(type(config)).items():
        if values[name] == fields[name].default:
            continue
        for other, wanted in rule.items():
            if other == KIND:
                if kind is not None and kind not in wanted:
                    raise InputError(f"--{name} is not used by {config.command} {kind}")
            elif other not in values:
                raise InputError(f"--{name} is not used by this command, which has no --{other}")
            else:
                _check_one(name, other, wanted, values[other], fields[other].default)


def is_used(config_type: type, name: str, values: dict) -> bool:
    """Return whether a flag is used with the settings {flag: value}; missing ones have their defaults."""
    fields = fields_of(config_type)
    values = {one: field.default for one, field in fields.items()} | values
    return all(
        other in fields and _holds(wanted, values[other], fields[other].default)
        for other, wanted in rules_of(config_type)[name].items()
        if other != KIND
    )


class Checked:
    """A base class of sections that refuse flags they do not use."""

    def __post_init__(self):
        """Refuse unused flags; see `check_used`."""
        check_used(self)


def _holds(wanted, value, default):
    """Return whether `value` of a flag matches `wanted`."""
    if wanted is SET or wanted is UNSET:
        return (value != default) == (wanted is SET)
    return any(one in wanted for one in (value if isinstance(value, tuple) else (value,)))


def _check_one(name, other, wanted, value, default):
    """Refuse the flag `name` unless `value` of the flag `other` matches `wanted`."""
    if _holds(wanted, value, default):
        return
    needed = f"needs {_flag(other, wanted)}"
    if wanted is SET or value == "":
        raise InputError(f"--{name} {needed}")
    text = listed(value) if isinstance(value, tuple) else value
    refused = f"--{name} is not used by --{other}" + ("" if value is True else f"={text}")
    raise InputError(refused if wanted is UNSET else f"{refused}; it {needed}")


def check_kind(config, kind: str) -> None:
    """Refuse an unknown kind, the first argument of a command, and flags that the kind does not use.

    Raises:
        InputError: names the kinds, or the flag.
    """
    if kind not in config.kinds:
        raise InputError(f"{f'{config.command} {kind}'.strip()}: say {_either(config.kinds)}")
    check_used(config, kind)


def usage(config_type: type, name: str) -> str:
    """Return when a flag is used, as a sentence for --help; "" for flags that are always used."""
    rule, known = rules_of(config_type)[name], {KIND, *fields_of(config_type)}
    if rule == NEVER or not known.issuperset(rule):
        return "Not used by this command."
    parts = [
        f"by {_either(wanted)}" if other == KIND else f"with{'out' * (wanted is UNSET)} {_flag(other, wanted)}"
        for other, wanted in rule.items()
    ]
    return f"Used {' and '.join(parts)}." if parts else ""


def _flag(name, wanted):
    return f"--{name}" if wanted is SET or wanted is UNSET else f"--{name}={_either(wanted)}"


def _either(values):
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last


def define_flags(config_type: type, flag_values: flags.FlagValues) -> None:
    """Define one flag for every field of every section of `config_type`."""
    for section in section_types(config_type).values():
        group = section.__doc__.strip().rstrip(".")
        hints = typing.get_type_hints(section)
        for field in dataclasses.fields(section):
            _define_flag(field, hints[field.name], group, flag_values)


def _define_flag(field, hint, group, flag_values):
    limits = {"lower_bound": field.metadata["low"], "upper_bound": field.metadata["high"]}
    common = {"name": field.name, "default": field.default, "help": field.metadata["help"]}
    common |= {"flag_values": flag_values, "module_name": group}
    if hint is bool:
        flags.DEFINE_boolean(**common)
    elif hint is int:
        flags.DEFINE_integer(**common, **limits)
    elif hint is float:
        flags.DEFINE_float(**common, **limits)
    elif hint is str and field.metadata["choices"]:
        flags.DEFINE_enum(enum_values=list(field.metadata["choices"]), **common)
    elif hint is str:
        flags.DEFINE_string(**common)
    else:  # tuple[int, ...], tuple[float, ...] or tuple[str, ...]
        flags.DEFINE(_ListParser(typing.get_args(hint)[0]), serializer=flags.CsvListSerializer(","), **common)


class _ListParser(flags.ArgumentParser):
    """A parser of values separated by commas, such as 32000,48000, into a tuple."""

    def __init__(self, value_type):
        self.value_type = value_type
        self.syntactic_help = f"{value_type.__name__} values separated by commas"

    def parse(self, argument):
        if not isinstance(argument, str):
            return tuple(argument)
        try:
            return tuple(self.value_type(part.strip()) for part in argument.split(",") if part.strip())
        except ValueError:
            raise ValueError(f"not {self.syntactic_help}") from None

    def flag_type(self):
        return f"{self.value_type.__name__} list"


def read_flags(config_type: type, flag_values: flags.FlagValues):
    """Return the configuration that parsed flags describe.

    Raises:
        InputError: a combination of flags that cannot work.
    """
    values = {name: getattr(flag_values, name) for name in fields_of(config_type) if flag_values[name].present}
    return from_settings(config_type, values, "the flags")
