"""``python -m ssd_cuda``: the command line."""

from .cli import main

raise SystemExit(main())
