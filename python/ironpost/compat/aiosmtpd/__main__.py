"""The command `python -m ironpost.compat.aiosmtpd`; handlers may be named as modules of aiosmtpd."""

from ironpost.compat import aliases
from ironpost.compat.aiosmtpd.main import main

if __name__ == "__main__":
    aliases.install("aiosmtpd")
    main()
