"""Hostile providers: every fault, what Keld does about it, and what it costs."""
