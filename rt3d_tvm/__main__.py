"""python -m rt3d_tvm: the command line, where the program rt3d is not on the path."""

import sys

from rt3d_tvm.cli import main

if __name__ == "__main__":
    sys.exit(main())
