"""`python -m planish`: the command line."""

from planish.frontend.cli import main

if __name__ == "__main__":
    main()
