"""`python -m palestra`: the same as the `palestra` command."""

from palestra.cli.main import main

if __name__ == "__main__":
    main()
