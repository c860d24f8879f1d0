"""`python -m ironpost.cli` is `ironpost`."""

from ironpost.cli import main

main()
