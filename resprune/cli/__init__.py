"""The command line: parse, call, print. torch is imported inside the commands only."""

import signal


def main() -> None:
    """Run the command line."""
    # Until a command runs there is nothing to tidy up: Ctrl-C ends the program without a word.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from resprune.cli import stopping
    from resprune.cli.app import app

    try:
        app()
    except SystemExit as ended:
        stopping.end_soon(ended.code)
        raise
