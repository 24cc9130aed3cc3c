"""``python -m eegtool`` is the same program as ``eegvlm``."""

from eegtool.cli import main

if __name__ == "__main__":
    main()
