"""``python -m cardferry``."""

from cardferry.cli.main import main

if __name__ == "__main__":
    main()
