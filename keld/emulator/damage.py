"""Damage: what the `lines` faults make of one result line.

Strings are put where readers trip: `inside: field` adds a key no reader asked for, which leaves a good answer good;
`inside: answer` puts it at the start of the answer's text.
"""

from .rule import Rule

_TEXT_KEYS = (b'"content":"', b'"text":"')
_FOREIGN = (
    b'{"id":"batch_req_foreign","%b":"keld-emulator-foreign-%d",'
    b'"response":{"status_code":200,"request_id":"req_foreign","body":{}},'
    b'"result":{"type":"canceled"},"error":null}'
)


def damaged(line: bytes, rules: list[Rule], rank: int, custom_id: str, id_field: str) -> list[bytes]:
    """The lines written in the place of `line`: none, one or several.

    Args:
        id_field: the field of a line that has the row's id.
    """
    lines = [line]
    for rule in rules:
        if lines and rule.picks(rank, custom_id):
            lines = _damaged(lines, rule, rank, id_field.encode())
    return lines


def _damaged(lines: list[bytes], rule: Rule, rank: int, id_field: bytes) -> list[bytes]:  # noqa: PLR0912  one case a fault
    line, *more = lines
    match rule.do:
        case "missing":
            return more
        case "duplicate":
            return [line, line, *more]
        case "foreign":
            return [line, _FOREIGN % (id_field, rank), *more]
        case "blank":
            return [line, b"", *more]
        case "cut":
            return [line[: len(line) // 2], *more]
        case "garbage":
            return [b"\x00\xff<html>502 Bad Gateway</html>", *more]
        case "duplicate_key":
            return [b'{"%b":"keld-emulator-overwritten",' % id_field + line[1:], *more]
        case "nan":
            return [b'{"keld_odd":NaN,' + line[1:], *more]
        case "deep":
            levels = int(rule.get("levels", 100_000))
            return [b'{"keld_odd":' + b"[" * levels + b"]" * levels + b"," + line[1:], *more]
        case "surrogate":
            return [_with_string(line, b"\\ud800", rule), *more]
        case "u2028":
            return [_with_string(line, "\u2028".encode(), rule), *more]
        case "huge":
            return [_with_string(line, b"x" * int(float(rule.get("size_mb", 1)) * 1_000_000), rule), *more]
        case _:  # bom, crlf and reorder concern the file, not a line of it
            return lines


def _with_string(line: bytes, escaped: bytes, rule: Rule) -> bytes:
    if rule.get("inside", "field") == "answer":
        for key in _TEXT_KEYS:
            if key in line:
                return line.replace(key, key + escaped, 1)
    return b'{"keld_odd":"' + escaped + b'",' + line[1:]
