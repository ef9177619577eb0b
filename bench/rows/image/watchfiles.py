"""Hides the installed watchfiles from an api that is measured as in its image, which does not have it."""

raise ModuleNotFoundError("no watchfiles, as in the image")
