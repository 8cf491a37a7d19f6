"""`python -m sft_utils.preflight`."""

import sys

from sft_utils.preflight.cli import main

sys.exit(main())
