"""Tests on kind, with pods that run."""
