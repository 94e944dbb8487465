"""Make the model that training starts from out of NTv2's weights; the same as ``hnet-ntv2 init``."""

import sys

if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.argv[0] = "hnet-ntv2"  # keeps the package from importing torch before the options are read
    from hnet_ntv2.cli.main import main

    main(["init", *arguments])
