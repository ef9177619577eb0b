"""The servers that tests start: ours, the real ones beside them, and those that fail on demand."""
