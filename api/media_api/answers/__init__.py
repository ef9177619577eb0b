"""What goes out: problems, files with ranges and conditions, streams of events."""
