"""``python -m morality_lens``: the command line."""

from morality_lens.cli.main import main

if __name__ == "__main__":
    main()
