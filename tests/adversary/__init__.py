"""Adversary: the other side of the wire as it really is: gateways, proxies and hosts that break their word, and what Keld does about it.

The server (`wire`, `mode`, `host`, `answerer`) and the `proxy` share no line and no import with `keld` or its emulator: sockets, threads and
JSON of the standard library, written from the providers' public pages.  Its journal is the bill.  `play` drives a Keld against it, `case` is
the table of what the other side may do and what must come of it, `mix` draws any number of these things at once.
"""
