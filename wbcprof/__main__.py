"""``python -m wbcprof``: the command line."""

from wbcprof.cli import main

raise SystemExit(main())
