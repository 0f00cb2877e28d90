"""`python -m conceptlens.cli`."""

from conceptlens.cli import main

main()
