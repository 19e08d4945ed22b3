"""What every command shares: flags in groups, errors of one line, and one JSON line last on stdout.

Exit codes: 0 done; 1 bad input (a file, a folder, a combination of flags); 2 a flag that does not
exist or cannot hold its value; 75 a training that was stopped by SIGTERM or SIGINT with everything saved,
or by the end of another machine of its cluster: start it again to go on; 130 interrupted.
"""

import errno
import logging
import os
import sys
import tempfile
import textwrap
import types

from absl import flags

from resnet_tf import config, files
from resnet_tf.errors import InputError

# Errors of the machine, not of the program, that a person can mend: disk full, quota, file limit, read-only, no access.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


class Callable(types.ModuleType):
    """The module of a command that is a function of the package too: `resnet_tf.evaluate(...)` is `api.evaluate(...)`.

    `import resnet_tf.evaluate`, wherever it stands, makes the module an attribute of the package and would hide a
    function of that name there. So the module itself is what can be called, and the order of imports does not matter.
    """

    def __call__(self, *arguments, **flags):
        """Call the function of `api` that has the command's name."""
        from resnet_tf import api

        return getattr(api, self.__name__.rpartition(".")[2])(*arguments, **flags)


def launch(description, config_type, run, argv=None, positional="", code=lambda result: 0):
    """Parse flags, call the command, print its result.

    Args:
        description: what the command does, shown by --help.
        config_type: a section, or a dataclass of sections; see `config`.
        run: function(configuration, arguments) that returns the result, a dict for the JSON line.
        argv: the command line without the program; None for the process's own.
        positional: how --help names the arguments that are no flags; "" where there are none.
        code: function(result) that returns the exit code, for commands that may fail in part.

    Returns:
        The exit code.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = list(sys.argv[1:] if argv is None else argv)
    values = flags.FlagValues()
    config.define_flags(config_type, values)
    if {"--help", "-help", "-h", "--helpfull"} & set(arguments):
        print(_help(description, config_type, values, positional))
        return 0
    try:
        rest = values(["resnet_tf", *arguments])[1:]
        if rest and not positional:
            raise flags.Error(f"unexpected argument '{rest[0]}': flags begin with --")
        settings = config.read_flags(config_type, values)
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


def _import_tensorflow():
    """Import TensorFlow and look for GPUs without its notes to stderr, which no setting turns off."""
    with tempfile.TemporaryFile() as notes:
        stderr = os.dup(2)
        sys.stderr.flush()
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
        except BaseException:
            notes.seek(0)
            os.write(stderr, notes.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _fail(error, code, kind="error"):
    print(f"{kind}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return code


def _help(description, config_type, values, positional):
    lines = [
        f"{description}\n",
        f"usage: python -m resnet_tf.COMMAND [--flagfile=FILE] [--flag=value ...] {positional}",
    ]
    for section in config.section_types(config_type).values():
        group = section.__doc__.strip().rstrip(".")
        lines.append(f"\n{group}:")
        for flag in values.get_key_flags_for_module(group) or values.flags_by_module_dict()[group]:
            default = flag.default_as_str or "''"
            choices = getattr(flag.parser, "enum_values", None)
            allowed = f" One of {', '.join(choice or repr('') for choice in choices)}." if choices else ""
            said = f"{flag.help}{allowed} {config.usage(config_type, flag.name)}".rstrip()
            text = f"{said} (default: {default.strip(chr(39)) or 'unset'})"
            lines.append(f"  --{flag.name}")
            lines.extend(textwrap.wrap(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines)
