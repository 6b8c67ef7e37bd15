"""``python -m genbatch`` is the command ``genbatch``."""

from genbatch.cli import main

main()
