"""The one exception whose message is meant for the person at the keyboard."""


class InputError(ValueError):
    """Bad input from outside: a flag, a file or a folder, which the message names in one line.

    Commands print the message and exit with code 1; anything else that is raised is a fault of
    the program and keeps its traceback.
    """
