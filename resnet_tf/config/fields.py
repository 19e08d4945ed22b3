"""Settings that are flags: how a field becomes a flag, and values become a configuration.

Every field is one flag of the same name. A section (a dataclass) is a group of `--help`.
"""

import dataclasses
import typing

from absl import flags

from resnet_tf.errors import InputError

_SAME = object()


def setting(default, help, *, choices=None, low=None, high=None, changes_result=True, earlier=_SAME):
    """Declare a field that is a flag.

    Args:
        default: its value where no flag is given; None where the flag must be given.
        help: one sentence, with unit and source.
        choices: the strings it may be.
        low: the smallest allowed number.
        high: the largest allowed number.
        changes_result: whether a run may not be resumed with another value.
        earlier: what runs and exports did whose manifest is older than this flag, where that is not the default; or a
            function of their settings, {flag: value}, that tells.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "changes_result": changes_result}
    metadata["earlier"] = default if earlier is _SAME else earlier
    return dataclasses.field(default=default, metadata=metadata)


def exif_setting():
    """Declare --exif, which all that reads images has."""
    return setting(
        "apply",
        "Orientation tags of images. apply: turn images upright; ignore: take them as they are stored, as runs from "
        "before this flag do. What only Pillow reads (TIFF, HEIC) is always upright.",
        choices=("apply", "ignore"),
        earlier="ignore",
    )


def section_types(config_type):
    """The sections of a configuration: {attribute: dataclass}."""
    fields = {field.name for field in dataclasses.fields(config_type)}
    return {name: hint for name, hint in typing.get_type_hints(config_type).items() if name in fields}


def settings_of(config):
    """Flatten a configuration of sections into {flag name: value}, in the order of declaration."""
    return {
        field.name: getattr(section, field.name)
        for section in (getattr(config, name) for name in section_types(type(config)))
        for field in dataclasses.fields(section)
    }


def fields_of(config_type):
    """The fields of all sections: {flag name: dataclasses.Field}."""
    sections = section_types(config_type).values()
    return {field.name: field for section in sections for field in dataclasses.fields(section)}


def from_settings(config_type, values, origin, recorded=False):
    """Build a configuration from {flag name: value}, as a manifest holds it.

    Args:
        config_type: a dataclass of sections, such as `TrainConfig`.
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
    return config_type(**sections)


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
