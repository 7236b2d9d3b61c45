"""``python -m cardferry``, and the installed ``cardferry``."""

import signal


def main() -> None:
    """Run the command line. A Ctrl-C while it is still being imported ends it without a traceback."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from cardferry.cli.main import main as command  # noqa: PLC0415 - that is what may be interrupted

    signal.signal(signal.SIGINT, before)
    command()


if __name__ == "__main__":
    main()
