"""Quote: a check that every quoted field of a CSV file ends correctly.

Arrow, like most readers, reads `"abc"def` as `abcdef`, and an unclosed quote as a field as long as the rest of the file: both without an
error, both not what was meant.  A field is quoted if a quote is its first character; it ends at a quote before a delimiter or the end of
the line; inside, a quote is written twice.  A quote inside a field that is not quoted (`5" pipe`) is an ordinary character.
"""

import numpy as np

_LINE_ENDS = (10, 13)


class Quotes:
    """Reads the bytes of a file; `fault` is (what, at which byte) after an error was found.

    If all quotes are correct, they open and close alternately, which is checked at once for a whole block; else they are checked one by one.
    """

    def __init__(self, quote: str, delimiter: str) -> None:
        self._quote = ord(quote)
        self._edge = np.zeros(256, dtype=np.bool_)
        self._edge[[*_LINE_ENDS, ord(delimiter)]] = True
        self._held = b"\n"  # the last byte so far, whose next byte is not known yet; at first: a field may begin here
        self._at = -1  # the offset of `_held` in the file
        self._before = 10  # the byte before it
        self._inside = False
        self._opened = self._closed = -2
        self.fault: tuple[str, int] | None = None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the file."""
        if self.fault is None and data:
            self._follow(self._held + data)

    def end(self) -> None:
        """Takes the end of the file."""
        if self.fault is None:
            self._follow(self._held + b"\n")
        if self.fault is None and self._inside:
            self.fault = ("a quote is opened here and never closed", self._opened)

    def _follow(self, data: bytes) -> None:
        """Checks the quotes of `data`, except one at its last byte, which is held until the next byte is known."""
        codes = np.frombuffer(data, dtype=np.uint8)
        places = np.flatnonzero(codes[:-1] == self._quote)
        if len(places):
            before, after = codes[np.maximum(places - 1, 0)], codes[places + 1]
            if places[0] == 0:
                before[0] = self._before
            opens = (np.arange(len(places)) + self._inside) % 2 == 0
            well = np.where(opens, self._edge[before] | (before == self._quote), self._edge[after] | (after == self._quote))
            if opens[0] and before[0] == self._quote:  # the quote before it did not close a field if its field is not quoted
                well[0] = self._closed == self._at + places[0] - 1
            if well.all():
                self._by_turns(places, opens)
            else:
                self._one_by_one(places.tolist(), before.tolist(), after.tolist())
        self._before = int(codes[-2]) if len(codes) > 1 else self._before
        self._held, self._at = data[-1:], self._at + len(data) - 1

    def _by_turns(self, places: "np.typing.NDArray[np.intp]", opens: "np.typing.NDArray[np.bool_]") -> None:
        opening, closing = places[opens], places[~opens]
        if len(opening):
            self._opened = self._at + int(opening[-1])
        if len(closing):
            self._closed = self._at + int(closing[-1])
        self._inside = bool(opens[-1])

    def _one_by_one(self, places: list[int], before: list[int], after: list[int]) -> None:
        for place, left, right in zip(places, before, after, strict=True):
            at = self._at + place
            if not self._inside:
                if self._edge[left]:
                    self._inside, self._opened = True, at
                elif self._closed == at - 1:  # the second of two: a quote inside the field
                    self._inside = True
            elif self._edge[right] or right == self._quote:
                self._inside, self._closed = False, at
            else:
                self.fault = ("a quoted field goes on after its closing quote", at)
                return
