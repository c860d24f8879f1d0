"""`python -m ironpost.cli` is `ironpost`, which imports nothing from the working directory (as with `python -P`)."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]

from ironpost.cli import main

main()
