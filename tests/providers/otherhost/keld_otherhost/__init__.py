"""Otherhost: a kind of provider that another package brings, found by its entry points (see `keld_otherhost-1.0.dist-info`).

emulator     its service, for the emulator
"""
