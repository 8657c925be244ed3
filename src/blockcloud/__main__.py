"""`python -m blockcloud`: the same as the `blockcloud` command."""

from blockcloud.cli import main

if __name__ == "__main__":
    main()
