"""__main__: the command `keld`, also as `python -m keld`.

It imports nothing itself, so that a Ctrl-C while the command is being imported ends it without a traceback.
"""

import sys


def main() -> None:
    """The `keld` command."""
    try:
        from keld.cli import main as command

        command()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
