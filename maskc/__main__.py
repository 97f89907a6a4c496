"""`python -m maskc` is the `maskc` command."""

from maskc.cli import main

if __name__ == "__main__":
    main()
