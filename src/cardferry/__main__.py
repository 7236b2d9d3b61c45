"""``python -m cardferry``, and the installed ``cardferry``."""

import signal
import sys


def main() -> None:
    """Run the command line.

    Until a command waits for it, a Ctrl-C ends the program as it ends others: while modules are imported, the
    `KeyboardInterrupt` of Python's own handler is a traceback, or is lost (in a callback of ``importlib``).
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - who has only the sources can start them with any
        sys.exit(
            "error: this Python is too old: it is {}.{}\nhint: cardferry needs Python 3.11 or newer; "
            "uv tool install cardferry brings one".format(*sys.version_info)
        )
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cardferry.cli.main import main as command  # noqa: PLC0415 - that is what may be interrupted

    command()


if __name__ == "__main__":
    main()
