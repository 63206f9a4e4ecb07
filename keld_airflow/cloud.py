"""Cloud: what a connection says of an identity in a cloud -> a function that makes the credentials of the cloud's own library.

The libraries are imported, and asked, when the account is used for the first time.  No error quotes a value: it may be a key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keld import AccessRefused

_GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def aws(
    key: tuple[str, str, str | None] | None, *, profile: str | None, role_arn: str | None, role: Mapping[str, Any], region: str | None
) -> Callable[[], Any]:
    """Of botocore: of a key, a profile, or what botocore finds, and by them of a role.

    Args:
        key: its id, its secret, its session token.
        role_arn: a role to assume, renewed before it expires.
        role: further arguments of AssumeRole.
    """

    def credentials() -> Any:
        from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
        from botocore.session import Session

        session = Session(profile=profile)
        if region:
            session.set_config_variable("region", region)  # of the service that gives out roles
        if key is not None:
            session.set_credentials(*key)
        found = session.get_credentials()
        if role_arn is None or found is None:
            return found
        fetcher = AssumeRoleCredentialFetcher(session.create_client, found, role_arn, extra_args=dict(role))
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")

    return credentials


def google(
    conn_id: str,
    *,
    keyfile: Mapping[str, Any] | None,
    path: str | None,
    config: Mapping[str, Any] | str | None,
    chain: Sequence[str],
    quota_project: str | None,
) -> Callable[[], Any]:
    """Of google-auth: of a service account's key, of a configuration, or what google-auth finds, and by them of other service accounts.

    Args:
        keyfile, path: a service account's key.
        config: of an external account, or the path of a file with it.
        chain: service accounts, of which the last one is used.
    """

    def credentials() -> Any:
        import google.auth
        from google.auth import impersonated_credentials
        from google.oauth2 import service_account

        auth: Any = google.auth  # neither has types for these
        of_key: Any = service_account.Credentials
        impersonated: Any = impersonated_credentials.Credentials
        scopes = [_GOOGLE_SCOPE]
        try:
            if keyfile is not None:
                found = of_key.from_service_account_info(keyfile, scopes=scopes)
            elif path is not None:
                found = of_key.from_service_account_file(path, scopes=scopes)
            elif isinstance(config, Mapping):
                found, _ = auth.load_credentials_from_dict(config, scopes=scopes)
            elif config is not None:
                found, _ = auth.load_credentials_from_file(config, scopes=scopes)
            else:
                found, _ = auth.default(scopes=scopes)
        except (ValueError, OSError, KeyError) as error:
            raise AccessRefused(
                f"The connection {conn_id} has a key or a configuration of Google Cloud that cannot be read ({type(error).__name__}). Nothing was sent. "
                "Give the whole JSON of the key as keyfile_dict, or the path of its file, which this worker has, as key_path."
            ) from None
        if chain:
            *delegates, principal = chain
            found = impersonated(found, principal, scopes, delegates=delegates)
        return found.with_quota_project(quota_project) if quota_project else found

    return credentials


def azure(secret: tuple[str, str, str] | None, *, managed_identity: str | None, workload_tenant: str | None) -> Callable[[], Any]:
    """Of azure-identity: of a service principal, or what azure-identity finds.

    Args:
        secret: tenant, client, its secret.
    """

    def credentials() -> Any:
        from azure.identity import ClientSecretCredential, DefaultAzureCredential

        if secret is not None:
            return ClientSecretCredential(*secret)
        # None is left out: azure-identity takes these from the environment then.
        given = {"managed_identity_client_id": managed_identity, "workload_identity_tenant_id": workload_tenant}
        return DefaultAzureCredential(**{name: value for name, value in given.items() if value})

    return credentials
