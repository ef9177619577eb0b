"""Many parts at once: `make run`, kills, outages, load, and the images' imports."""
