"""`python -m uni_sign` is the `uni-sign` command."""

import sys

from uni_sign.cli import main

sys.exit(main())
