"""The subcommands of `gmmxlnet`; see `gmmxlnet/cli.py`."""
