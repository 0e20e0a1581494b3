"""The command line: parse, call, print. torch is imported inside the commands only."""

from resprune.cli.app import main

__all__ = ["main"]
