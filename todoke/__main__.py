"""`python -m todoke` is the command line."""

from todoke.cli import main

main()
