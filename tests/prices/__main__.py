"""`make prices`: writes `keld/prices.toml` from the price file in litellm's wheel.

The wheel is downloaded by pip, which checks its hash, and is opened as an archive: it is never installed or imported, since it is large, calls
the network when it is imported, and one of its releases was compromised.  To take a newer release, change the three constants below, run this,
and read the difference before it is committed.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

from tests.prices.litellm import SECTIONS, models, written

RELEASE = "1.109.1"
SHA256 = "1c8b4dd671fa0cd0850aa751678704ff77e595fb1e6085b2dc3be39ee19bdaaf"  # of the wheel for Linux, x86-64
SNAPSHOT = date(2026, 11, 21)  # the file has no date of its own: the day on which this release was taken
COMPROMISED = frozenset({"1.107.0"})  # carried code that stole keys

_PLATFORM = ("--platform", "manylinux_2_28_x86_64", "--implementation", "cp", "--abi", "abi3", "--python-version", "3.11")
_FILE = "litellm/model_prices_and_context_window_backup.json"
_INTO = Path(__file__).parents[2] / "keld" / "prices.toml"
_HEAD = f"""\
# Rates in USD per million tokens, for the lanes and clouds that genai-prices lacks.  Written by `make prices`; changes by hand are lost.
# From {_FILE.rpartition("/")[2]} of litellm {RELEASE}, https://github.com/BerriAI/litellm (MIT).
# A section is a price list: `genai_prices` the same vendor's list there, `read` the day of the snapshot.  Then a line for each model and a table
# for each lane; `long` is what requests of more than `above` input tokens cost, `regional` what an address in one region multiplies.
# Azure: global deployments; a data zone is the account's price_factor.  Bedrock: `us.` and the like are inference profiles, `region/model` one region.
"""


def main() -> None:
    refuse_compromised(RELEASE)
    with tempfile.TemporaryDirectory() as folder:
        entries = price_file(_download(Path(folder)), RELEASE, SHA256)
    source = f"litellm {RELEASE}"
    sections = [(section, models(entries, section)) for section in SECTIONS]
    text = "\n\n".join([_HEAD.rstrip(), *("\n".join(written(section, found, source, SNAPSHOT)) for section, found in sections)])
    _INTO.write_text(text + "\n")
    print(f"{_INTO}: " + ", ".join(f"{section.prices} {len(found)}" for section, found in sections))


def refuse_compromised(release: str) -> None:
    """Ends the program if that release must not be downloaded."""
    if release in COMPROMISED:
        sys.exit(f"litellm {release} was compromised. Nothing was downloaded. Pin another release.")


def price_file(wheel: Path, release: str, sha256: str) -> dict[str, dict[str, Any]]:
    """The entries of the price file in a wheel that is the pinned one; ends the program if it is not."""
    refuse_compromised(release)
    if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != sha256 or f"-{release}-" not in wheel.name:
        sys.exit(f"{wheel.name} has the hash {found}, not the pinned one. It was not opened.")
    with zipfile.ZipFile(wheel) as archive:
        entries: dict[str, dict[str, Any]] = json.loads(archive.read(_FILE))
    return entries


def _download(folder: Path) -> Path:
    """The pinned wheel: pip downloads it, checks its hash and runs nothing of it."""
    pinned = folder / "pinned.txt"
    pinned.write_text(f"litellm=={RELEASE} --hash=sha256:{SHA256}\n")
    options = ("--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", *_PLATFORM, "--dest", str(folder))
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "--requirement", str(pinned)], check=True)
    return next(folder.glob("*.whl"))


if __name__ == "__main__":
    main()
