"""Otherhost: a kind of provider that another package brings, found by its entry points (see `keld_otherhost-1.0.dist-info`).

emulator     its service, for the emulator
lines        the lines of its inputs and results, for the emulator
provider     its envelope, batches and preset, for Keld
"""
