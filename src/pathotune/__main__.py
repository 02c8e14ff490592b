"""`python -m pathotune`: the command line, for where its program is not on the path."""

from pathotune.cli import main

if __name__ == "__main__":
    main()
