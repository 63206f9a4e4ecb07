"""`python -m keld.emulator`: the emulator in the foreground; ends with 0 on SIGTERM and SIGINT."""

import argparse
import sys

from .server import serve


def main() -> int:
    about = "Stands in for the providers of LLMs, batch and realtime."
    parser = argparse.ArgumentParser(prog="python -m keld.emulator", description=about)
    parser.add_argument("--host", default="127.0.0.1", help="other than loopback only with --token")
    parser.add_argument("--port", type=int, default=8700, help="0 takes a free one")
    parser.add_argument("--latency-s", type=float, default=0.0, help="how long a batch takes")
    parser.add_argument("--rows-per-s", type=float, default=None, help="a batch lasts at least rows / this")
    parser.add_argument("--token", default=None, help="required of every request, as its API key")
    given = parser.parse_args()
    try:
        serve(
            host=given.host,
            port=given.port,
            token=given.token,
            latency_s=given.latency_s,
            rows_per_s=given.rows_per_s,
        )
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
