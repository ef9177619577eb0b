"""Hides the installed python_multipart from an api that is measured as in its image, which does not have it."""

raise ModuleNotFoundError("no python_multipart, as in the image")
