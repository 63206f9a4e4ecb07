"""__main__: `python -m keld` is the same as the command `keld`."""

from keld.cli import main

main()
