"""The exception whose message is meant for the user."""


class InputError(ValueError):
    """Bad input from the user. The one-line message names the flag, file or folder.

    Commands print the message and exit with code 1. Any other exception is a bug and keeps its traceback.
    """
