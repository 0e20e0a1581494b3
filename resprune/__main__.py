"""``python -m resprune``, which launchers of several processes can start."""

from resprune.cli import main

if __name__ == "__main__":
    main()
