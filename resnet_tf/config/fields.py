"""Settings that are flags: how a field becomes a flag, and values become a configuration.

Every field is one flag of the same name. A section (a dataclass) is a group of `--help`; a configuration is a section,
or a dataclass of sections. When a flag is used is declared once, by `used_with` of its `setting`: `check_used` refuses
it where it is not, and `--help` prints when it is.
"""

import dataclasses
import typing

from absl import flags

from resnet_tf.errors import InputError

# In `used_with`: another flag has any value but its default, or its default.
SET, UNSET = object(), object()
# In `used_with`, in the place of another flag: the command's first argument, such as "train" of `benchmark train`.
KIND = "kind"
NEVER = {KIND: ()}

_SAME = object()


def setting(default, help, *, choices=None, low=None, high=None, used_with=None, changes_result=True, earlier=_SAME):
    """Declare a field that is a flag.

    Args:
        default: its value where no flag is given; None where the flag must be given.
        help: one sentence, with unit and source.
        choices: the strings it may be.
        low: the smallest allowed number.
        high: the largest allowed number.
        used_with: on what it depends whether the flag is used, {other flag: the tuple of its values with which it is,
            or SET, or UNSET}; all must hold. Where the other flag is a list, one of its values is enough. With KIND as
            the other flag, kinds of the command. None: the flag is always used.
        changes_result: whether a run may not be resumed with another value.
        earlier: what runs and exports did whose manifest is older than this flag, where that is not the default; or a
            function of their settings, {flag: value}, that tells.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "changes_result": changes_result}
    metadata["used_with"] = used_with or {}
    metadata["earlier"] = default if earlier is _SAME else earlier
    return dataclasses.field(default=default, metadata=metadata)


def exif_setting(used_with=None):
    """Declare --exif, which all that reads images has."""
    return setting(
        "apply",
        "Orientation tags of images. apply: turn images upright; ignore: take them as they are stored, as runs from "
        "before this flag do. What only Pillow reads (TIFF, HEIC) is always upright.",
        choices=("apply", "ignore"),
        used_with=used_with,
        earlier="ignore",
    )


def section_types(config_type):
    """The sections of a configuration: {attribute: dataclass}; of one that is a section itself, {"": that}."""
    hints = typing.get_type_hints(config_type)
    sections = {field.name: hints[field.name] for field in dataclasses.fields(config_type)}
    return sections if all(map(dataclasses.is_dataclass, sections.values())) else {"": config_type}


def settings_of(config):
    """Flatten a configuration into {flag name: value}, in the order of declaration."""
    return {
        field.name: getattr(section, field.name)
        for section in (getattr(config, name) if name else config for name in section_types(type(config)))
        for field in dataclasses.fields(section)
    }


def fields_of(config_type):
    """The fields of all sections: {flag name: dataclasses.Field}."""
    sections = section_types(config_type).values()
    return {field.name: field for section in sections for field in dataclasses.fields(section)}


def from_settings(config_type, values, origin, recorded=False):
    """Build a configuration from {flag name: value}, as a manifest holds it.

    Args:
        config_type: a section, or a dataclass of sections, such as `TrainConfig`.
        values: the settings; those that are missing take their defaults.
        origin: what to name in an error: a file or "the flags".
        recorded: the values are those of a run or an export, perhaps of an earlier release: a setting that is missing
            means what that release did.

    Raises:
        InputError: a setting that does not exist.
    """
    if recorded:
        fields = fields_of(config_type)
        missing = {name: fields[name].metadata["earlier"] for name in fields if name not in values}
        found = {name: earlier(values) if callable(earlier) else earlier for name, earlier in missing.items()}
        values = found | values
    unknown = set(values) - set(fields_of(config_type))
    if unknown:
        raise InputError(f"{origin}: unknown setting {', '.join(sorted(unknown))}")
    sections = {}
    for name, section in section_types(config_type).items():
        hints = typing.get_type_hints(section)
        chosen = {key: values[key] for key in hints if key in values}
        for key, value in chosen.items():
            if typing.get_origin(hints[key]) is tuple:
                chosen[key] = tuple(value)
        sections[name] = section(**chosen)
    return sections[""] if "" in sections else config_type(**sections)


def rules_of(config_type):
    """When each flag is used: {flag name: `used_with`}, {} where it always is.

    What a configuration has as its own `used_with`, {flag name: `used_with`}, comes before what the fields declare, for
    sections that it shares with other commands.
    """
    declared = {name: field.metadata["used_with"] for name, field in fields_of(config_type).items()}
    return declared | getattr(config_type, "used_with", {})


def check_used(config, kind=None):
    """Refuse a flag that has another value than its default where it is not used.

    Args:
        config: a configuration.
        kind: the command's first argument, where it has kinds and this is known; see `check_kind`.

    Raises:
        InputError: names the flag, and what it is not used with or needs.
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


def _check_one(name, other, wanted, value, default):
    """Refuse the flag `name` where the value of the flag `other` is none of those that it is used with."""
    if wanted is SET or wanted is UNSET:
        holds = (value != default) == (wanted is SET)
    else:
        holds = any(one in wanted for one in (value if isinstance(value, tuple) else (value,)))
    if holds:
        return
    needed = f"needs {_flag(other, wanted)}"
    if wanted is SET or value == "":
        raise InputError(f"--{name} {needed}")
    listed = ",".join(map(str, value)) if isinstance(value, tuple) else value
    refused = f"--{name} is not used by --{other}" + ("" if value is True else f"={listed}")
    raise InputError(refused if wanted is UNSET else f"{refused}; it {needed}")


def check_kind(config, kind):
    """Refuse a first argument that is no kind of the command, and flags that this kind does not use.

    Args:
        config: a configuration with `command`, its name, and `kinds`, a tuple.
        kind: the first argument; "" where there is none.

    Raises:
        InputError: names the kinds, or the flag.
    """
    if kind not in config.kinds:
        raise InputError(f"{f'{config.command} {kind}'.strip()}: say {_either(config.kinds)}")
    check_used(config, kind)


def usage(config_type, name):
    """When a flag is used, as a sentence for --help; "" where it always is."""
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


def define_flags(config_type, flag_values):
    """Define one flag for every field of every section of `config_type`."""
    for section in section_types(config_type).values():
        group = section.__doc__.strip().rstrip(".")
        hints = typing.get_type_hints(section)
        for field in dataclasses.fields(section):
            _define_flag(field, hints[field.name], group, flag_values)


def _define_flag(field, hint, group, flag_values):
    limits = {"lower_bound": field.metadata["low"], "upper_bound": field.metadata["high"]}
    common = {
        "name": field.name,
        "default": field.default,
        "help": field.metadata["help"],
        "flag_values": flag_values,
        "module_name": group,
    }
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
    """Parses values separated by commas, such as 32000,48000, into a tuple."""

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


def read_flags(config_type, flag_values):
    """The configuration that parsed flags describe.

    Raises:
        InputError: a combination that makes no sense.
    """
    values = {name: getattr(flag_values, name) for name in fields_of(config_type)}
    return from_settings(config_type, values, "the flags")
