"""Rarehost: otherhost with the traits that few hosts have, found by its entry points (see `keld_rarehost-1.0.dist-info`).

emulator     its service, for the emulator
provider     its batches and preset, for Keld
"""
