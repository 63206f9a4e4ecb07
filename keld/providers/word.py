"""Word: what a failed reply is called, for people: its status, and the provider's code where that says more.

Below `fault` and the dialects.  Pure and light: `status` shows these words, too.
"""

from __future__ import annotations

from http import HTTPStatus

# Azure gives the status as the code, Mistral `http_error`; without a code the shapes of errors give `error`.
_SAYS_NOTHING = {"", "error", "http_error", "none", "null"}


def reply_words(status: int | str | None, code: object = "") -> str:
    """`HTTP 429 rate_limit_exceeded`; a code that says nothing more than the status gives way to the status' own name: `HTTP 401 Unauthorized`."""
    number, word = str(status or "?"), str(code or "").strip()
    if word.lower() in _SAYS_NOTHING or word == number:
        word = HTTPStatus(int(number)).phrase if number.isdigit() and int(number) in _NAMED else ""
    return f"HTTP {number} {word}".rstrip()


_NAMED = frozenset(HTTPStatus)
# What a person should do about a refused access, by the code of the fault, where it is not the key.
CLOCK_SKEW, ROLE_REFUSED = "clock_skew", "role_refused"
_ADVICE = {
    CLOCK_SKEW: "The clock of this machine differs from that of {name} by more than a signature may. Set it, e.g. by NTP.",
    ROLE_REFUSED: (
        "Check role= of {name}: Bedrock must be allowed to assume it (its trust policy names bedrock.amazonaws.com), and these credentials to pass it "
        "(iam:PassRole)."
    ),
    "AccessDeniedException": (
        "Allow the credentials of {name} this call (for batches bedrock:CreateModelInvocationJob, and iam:PassRole for its role), and the account the model."
    ),
    "bucket_access_denied": (
        "Check that its bucket is there, that the credentials of {name} may read, write and list it, and that this machine's clock is right."
    ),
    "bucket_in_another_region": "The bucket of {name} is in another region than the account: batches need one in the same region. Correct bucket= or region=.",
    "DeploymentNotFound": (
        "Check deployments= (batches) and fast_deployments= (the other lanes) of {name}: they have the names of deployments, and one that was just made "
        "takes some minutes."
    ),
    "OperationNotSupported": "That deployment of {name} is of another type: deployments= has those for batches, fast_deployments= those for the other lanes.",
    "redirect": "Check the base URL of {name}: it redirects to another address, where the key is not sent.",
}


def access_advice(code: str, name: str) -> str:
    """What a person should do about a refused access, one sentence."""
    return _ADVICE.get(code, "Check the key, the project and the billing of {name}.").format(name=name)
