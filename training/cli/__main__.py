"""`python -m training.cli`."""

from training.cli.app import main

main()
