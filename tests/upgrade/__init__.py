"""Upgrade: what earlier versions of Keld left behind, kept as text, and how it was made (`python -m tests.upgrade`)."""
