"""Azure auth: the key of a resource, or a token of Entra.

A part of the transports.  azure-identity is imported only if the account has no key.
"""

from __future__ import annotations

from keld.errors import AccessRefused
from keld.providers.auth import Renewed, Token
from keld.providers.part import Auth, Connection, Fixed

# learn.microsoft.com/azure/foundry/openai/api-version-lifecycle, Nov 2026; the older scope, of `cognitiveservices.azure.com`, is accepted, too.
_SCOPE = "https://ai.azure.com/.default"


def auth(connection: Connection) -> Auth:
    """The headers of a request to the resource.

    Raises:
        AccessRefused: there is no key, and azure-identity is not installed.
    """
    given = connection.account.credentials
    if given is None and (key := connection.key()):
        return Fixed({"api-key": key})
    try:
        from azure.core.exceptions import ClientAuthenticationError
        from azure.identity import DefaultAzureCredential
    except ImportError:
        raise AccessRefused(
            "No key for Azure: the environment variable AZURE_OPENAI_API_KEY is not set, and azure-identity, which gets a token of Entra, is not installed. "
            "No call was made. Set the key, or: pip install 'keld[azure]'.",
            account="azure",
        ) from None
    credential = given() if given is not None else DefaultAzureCredential()

    def fetch() -> Token:
        try:
            found = credential.get_token(_SCOPE)
        except ClientAuthenticationError:  # its text lists what each of ten credentials said, and may quote a tenant and a client
            raise AccessRefused(
                "Entra gave no token for Azure: no credential of this machine is accepted (environment, workload identity, managed identity, Azure CLI). "
                "No call was made. Set AZURE_OPENAI_API_KEY, or give this identity the role Cognitive Services OpenAI User.",
                account="azure",
            ) from None
        return Token(found.token, float(found.expires_on))

    return Renewed(fetch, "a token of Entra")
