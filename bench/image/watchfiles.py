"""Stands before the real one in the path of an api that is measured as its image has it, which holds no watchfiles."""

raise ModuleNotFoundError("no watchfiles, as in the image")
