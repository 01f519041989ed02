"""`python -m distwatch`."""

from distwatch.cli.__main__ import main

main()
