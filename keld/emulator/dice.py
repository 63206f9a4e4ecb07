"""Dice: choices drawn from a digest, so that the same request gets the same answer, today and on another machine."""

from hashlib import sha256

_TALE = (
    "amber basket candle delta ember forest garden harbor island jacket kettle ladder marble needle orchard pepper "
    "quartz river saddle timber velvet willow yellow zephyr"
)
WORDS = _TALE.split()


class Dice:
    """Choices drawn from a digest."""

    __slots__ = ("_seed", "_value")

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._value = int.from_bytes(seed, "big")

    def roll(self, sides: int) -> int:
        """One of 0..sides-1."""
        if self._value < sides:
            self._seed = sha256(self._seed).digest()
            self._value = int.from_bytes(self._seed, "big")
        self._value, chosen = divmod(self._value, sides)
        return chosen

    def words(self, count: int) -> str:
        return " ".join(WORDS[self.roll(len(WORDS))] for _ in range(count))
