"""Tests on a control plane: a real API server, whose pods stay Pending."""
