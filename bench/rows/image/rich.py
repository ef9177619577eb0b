"""Hides the installed rich from an api that is measured as in its image, which does not have it."""

raise ModuleNotFoundError("no rich, as in the image")
