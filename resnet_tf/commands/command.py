"""The launcher that all commands share: grouped flags, one-line errors, and a JSON line last on stdout.

Exit codes: 0 success; 1 bad input (a file, a folder, a combination of flags); 2 an unknown flag or an invalid value; 75
a training that saved everything and stopped, on SIGTERM, SIGINT or the end of another machine of its cluster, and that
the same command resumes; 130 interrupted.
"""

import errno
import functools
import importlib
import logging
import os
import sys
import tempfile
import textwrap
import types

from absl import flags

from resnet_tf import config, files
from resnet_tf.config import recipes
from resnet_tf.errors import InputError

# Errors that the user can fix: disk full, quota, file size limit, read-only file system, no access, not a folder.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


class Callable(types.ModuleType):
    """A command module that is also a function: `resnet_tf.evaluate(...)` calls `api.evaluate(...)`.

    `import resnet_tf.evaluate` makes the module an attribute of the package and would hide a function of that name. A
    callable module works in any order of imports.
    """

    def __call__(self, *arguments, **flags):
        """Call the function of `api` with the name of the command."""
        from resnet_tf import api

        return getattr(api, self.__name__.rpartition(".")[2])(*arguments, **flags)


def entry(description, config_type, run, **options):
    """Return the `main` of a command, function(argv=None) that returns the exit code; for the arguments see `launch`.

    `run` may also be the import path "MODULE:NAME" of function(configuration), imported when the command runs.
    """

    def run_imported(settings, _):
        """Import the function that `run` names, and call it with the settings."""
        module, name = run.split(":")
        return getattr(importlib.import_module(module), name)(settings)

    run_it = run_imported if isinstance(run, str) else run
    return functools.partial(launch, description, config_type, run_it, **options)


def launch(description, config_type, run, argv=None, positional="", code=lambda result: 0, examples=()) -> int:
    """Parse flags, run a command and print its result.

    Args:
        description: purpose of the command, for --help.
        config_type: a section, or a dataclass of sections; see `config.fields`.
        run: function(configuration, arguments) that returns a dict for the JSON line.
        argv: command line without the program; None for that of the process.
        positional: positional arguments, for --help; "" if the command takes none.
        code: function(result) that returns the exit code, for commands that may fail in part.
        examples: command lines without `python -m resnet_tf.`, for --help.

    Returns:
        The exit code.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = list(sys.argv[1:] if argv is None else argv)
    values = flags.FlagValues()
    config.define_flags(config_type, values)
    if {"--help", "-help", "-h", "--helpfull"} & set(arguments):
        print(_help(description, config_type, values, positional, examples))
        return 0
    if recipes.asked_for_list(arguments):
        print(recipes.listed())
        return 0
    try:
        arguments = [_renamed(one, values) for one in recipes.expanded(arguments)]
        rest = values(["resnet_tf", *arguments])[1:]
        if rest and not positional:
            raise flags.Error(f"unexpected argument '{rest[0]}': flags begin with --")
        settings = config.read_flags(config_type, values)
    except flags.UnrecognizedFlagError as error:
        name = error.flagname
        return _fail(f"unknown flag --{name}; the nearest is --{config.nearest(name, list(values))} (see --help)", 2)
    except flags.Error as error:
        return _fail(error, 2)
    except InputError as error:
        return _fail(error, 1)
    _import_tensorflow()
    from resnet_tf.runs import signals

    try:
        result = run(settings, rest)
    except InputError as error:
        return _fail(error, 1)
    except signals.Stopped as stopped:
        return _fail(stopped, signals.EXIT_CODE, "stopped")
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        return _fail(f"{error.filename or 'writing'}: {error.strerror}", 1)
    print(files.to_json(result), flush=True)
    return code(result)


def train(settings, _):
    """Train the task of a configuration, and say in words how good it is; the `run` of all training commands."""
    from resnet_tf import tasks

    return tasks.train(settings)


def require(settings, *names: str) -> None:
    """Refuse settings that are empty, with an `InputError`."""
    for name in names:
        if not getattr(settings, name):
            raise InputError(f"--{name} is not set")


def _import_tensorflow():
    """Import TensorFlow and look for GPUs; drop the messages on stderr that no setting turns off."""
    with tempfile.TemporaryFile() as messages:
        stderr = os.dup(2)
        sys.stderr.flush()
        os.dup2(messages.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
        except BaseException:
            messages.seek(0)
            os.write(stderr, messages.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _fail(error, code, kind="error"):
    print(f"{kind}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return code


def _renamed(argument, values):
    """Return an argument in which a name that users know from elsewhere is the flag of this command."""
    name, equals, value = argument.partition("=")
    bare = name.lstrip("-")
    ours = config.SYNONYMS.get(bare) if name.startswith("-") and bare not in values else None
    return f"--{ours}{equals}{value}" if ours in values else argument


def _help(description, config_type, values, positional, examples):
    fields = config.fields_of(config_type)
    lines = [
        f"{description}\n",
        f"usage: python -m resnet_tf.COMMAND [--recipe=NAME] [--flag=value ...] {positional}",
        *(["\nexamples:", *(f"  python -m resnet_tf.{line}" for line in examples)] if examples else []),
        "\n--recipe=NAME takes the flags of a recipe; --list_recipes lists them. --flagfile=FILE reads flags.",
    ]
    for section in config.section_types(config_type).values():
        group = section.__doc__.strip().rstrip(".")
        lines.append(f"\n{group}:")
        for flag in values.get_key_flags_for_module(group) or values.flags_by_module_dict()[group]:
            metadata = fields[flag.name].metadata
            choices = ", ".join(choice or repr("") for choice in metadata["choices"] or ())
            text = f"{metadata['help']} {choices and f'One of {choices}.'} {config.usage(config_type, flag.name)}"
            text += f" (default: {(flag.default_as_str or '').strip(chr(39)) or 'unset'})"
            lines.append(f"  --{flag.name}")
            lines += textwrap.wrap(" ".join(text.split()), 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
