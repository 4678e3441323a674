"""`python -m rmeeto_bench` is `rmeeto-bench`."""

import sys

from rmeeto_bench.cli.main import main

sys.exit(main())
