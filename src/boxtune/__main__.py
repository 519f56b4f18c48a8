"""`python -m boxtune` is `boxtune`."""

from boxtune.cli.main import run

if __name__ == "__main__":
    run()
