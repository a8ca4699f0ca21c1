"""`python -m unet_cli` is `unet`."""

from unet_cli.cli import main

if __name__ == "__main__":  # a process that a command starts reads this file too
    main()
