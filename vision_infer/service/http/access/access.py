"""Access for teams, as one object: roles, API tokens, the provider, and the audit log."""

from __future__ import annotations

from pathlib import Path

from vision_infer.config.access.settings import AccessSettings
from vision_infer.core.clock import Clock
from vision_infer.core.packages import require
from vision_infer.service.http.access.api_tokens import ApiTokens
from vision_infer.service.http.access.audit import Audit
from vision_infer.service.http.access.principal import Principal, with_role
from vision_infer.service.http.token_file import digest_of

MAX_JWT_CHARS = 12_000
"""The maximum length of a token of the provider, which fits into the headers of a request."""


class Access:
    """The rights of persons and programs.

    Args:
        settings: The settings.
        folder: The state folder.
        clock: The source of time.

    Raises:
        UsageError: The file of the API tokens is damaged, or a package is missing.
        OutputError: The file cannot be read.
    """

    def __init__(self, settings: AccessSettings, folder: Path, clock: Clock) -> None:
        self.settings = settings
        self.tokens = ApiTokens(folder, clock)
        self.audit = Audit(settings.audit, folder, clock)
        self._clock = clock
        self.oidc = None
        if settings.oidc is not None:
            require("access.oidc", "joserfc")
            from vision_infer.service.http.access.oidc import Oidc

            self.oidc = Oidc(settings, clock)

    def of_api_token(self, token: str) -> Principal | None:
        """Return the owner of an API token; None if it is not valid. Any thread may call it."""
        known = self.tokens.find(token)
        rights = None if known is None else self.settings.role(known.role)
        if known is None or rights is None:  # the role was removed from the settings
            return None
        found = with_role(known.person, known.subject, known.role, rights, "api-token")
        return found.ending(known.expires_ns, self._clock).with_key(f"token {known.sha256}")

    async def of_provider(self, token: str) -> Principal | None:
        """Return the owner of an access token of the provider; None if it is not valid.

        Raises:
            ProviderError: The provider must be asked, and does not answer.
        """
        if self.oidc is None or token.count(".") != 2 or len(token) > MAX_JWT_CHARS:
            return None
        from vision_infer.service.http.access.oidc import LoginRefusedError

        try:
            return (await self.oidc.bearer(token)).with_key(f"token {digest_of(token).hex()}")
        except LoginRefusedError:
            return None
