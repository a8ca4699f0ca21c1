"""`python -m unet_cli` is `unet`."""

from unet_cli.cli import main

main()
