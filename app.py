"""The page, as a host such as Hugging Face Spaces starts it; `python app.py --help` for the operator's options."""

import sys

from vlcompare.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
