"""Cell: a text as a cell of CSV that no spreadsheet runs."""


def cell(text: str) -> str:
    """The text, changed if a spreadsheet could read it as a formula (owasp.org/www-community/attacks/CSV_Injection, read 2026-11)."""
    begins = text.lstrip()[:1] or text[:1]
    return f"'{text}" if text != "-" and (begins in tuple("=+-@\uff1d\uff0b\uff0d\uff20") or text[:1] in ("\t", "\r", "\n")) else text
