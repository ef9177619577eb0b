"""Stands before the real one in the path of an api that is measured as its image has it, which holds no rich."""

raise ModuleNotFoundError("no rich, as in the image")
