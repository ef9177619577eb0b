"""Stands before the real one in the path of an api that is measured as its image has it: without python_multipart."""

raise ModuleNotFoundError("no python_multipart, as in the image")
