"""The recipes that come with the package: files of flags, by name."""

import difflib
import pathlib

from absl import flags

from resnet_tf.config.fields import define_flags, fields_of
from resnet_tf.errors import InputError

_PACKAGE = pathlib.Path(__file__).parent.parent
_FLAG, _LIST = "--recipe", "--list_recipes"


def folder() -> pathlib.Path:
    """Return the folder of the recipes: flags/ of a clone, or the copy of it in an installed package."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "flags"


def names() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted(path.stem for path in folder().glob("*.cfg"))


def path(name: str) -> pathlib.Path:
    """Return the file of a recipe.

    Raises:
        InputError: no such recipe; names the nearest ones.
    """
    known = names()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0)
        raise InputError(f"--recipe={name}: no such recipe; the nearest are {', '.join(nearest)} (--list_recipes)")
    return folder() / f"{name}.cfg"


def title(name: str) -> str:
    """Return the first sentence of a recipe, its title."""
    return path(name).read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")


def expanded(arguments: list[str]) -> list[str]:
    """Return a command line in which --recipe=NAME is --flagfile=FILE, first, so that other flags override it.

    Raises:
        InputError: no such recipe, or more than one.
    """
    rest, found = [], []
    arguments = iter(arguments)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag.replace("--", "-") == _FLAG[1:]:
            found.append(value if equals else next(arguments, ""))
        else:
            rest.append(argument)
    if len(found) > 1:
        raise InputError(f"--recipe: {' and '.join(found)}: name one")
    return [f"--flagfile={path(name)}" for name in found] + rest


def asked_for_list(arguments: list[str]) -> bool:
    """Return whether a command line has --list_recipes."""
    return bool({_LIST, _LIST[1:]} & set(arguments))


def listed() -> str:
    """Return the names and titles of all recipes, one in a line."""
    width = max(map(len, names()))
    return "\n".join(f"{name:{width}}  {title(name)}" for name in names())


def settings(config_type: type, name: str) -> dict:
    """Return the settings of a recipe, {flag: value}.

    Args:
        config_type: a configuration that has the flags of the recipe.
        name: of the recipe.

    Raises:
        InputError: no such recipe, or one with other flags.
    """
    values = flags.FlagValues()
    define_flags(config_type, values)
    try:
        values(["resnet_tf", f"--flagfile={path(name)}"])
    except flags.Error as error:
        raise InputError(f"--recipe={name}: {error}") from None
    return {one: getattr(values, one) for one in fields_of(config_type) if values[one].present}
