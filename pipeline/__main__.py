"""`python -m pipeline`: the command goes to a waiting server, or runs here."""

from __future__ import annotations

import sys

from pipeline.client import forward

if __name__ == "__main__":
    code = forward(sys.argv[1:])
    if code is None:
        from pipeline.commandline import main

        code = main()
    sys.exit(code)
