"""How fast this is against what there is: `make bench`. Each figure is a ratio taken in one process, in turns."""
