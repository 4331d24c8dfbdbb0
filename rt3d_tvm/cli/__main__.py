"""python -m rt3d_tvm.cli."""

import sys

from rt3d_tvm.cli import main

if __name__ == "__main__":
    sys.exit(main())
