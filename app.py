"""The page, as a host such as Hugging Face Spaces starts it; `python app.py --help` for the operator's options."""

import sys

try:
    from vlcompare.cli import main
except ImportError as error:  # an older Python, which the sentence names
    sys.exit(str(error))

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
