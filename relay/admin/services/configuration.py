"""The configuration: seen masked, changed in its files, told to the running relay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from relay.admin.context import Context
from relay.admin.security.roles import Caller
from relay.admin.services.masking import effective, shown
from relay.config.change import Draft, change, fingerprint
from relay.config.faults import InvalidConfig
from relay.config.load import Loaded
from relay.control.protocol import ControlError


class Configuration:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def view(self) -> dict[str, Any]:
        """The configuration of the files, secrets masked; the faults of files that do not validate just now."""
        current = self._context.current
        loaded = await current.look()
        trouble = current.trouble
        faults = trouble.faults if isinstance(trouble, InvalidConfig) else ()
        return {
            "valid": trouble is None,
            "errors": [{"where": f"{fault.place} {fault.key}".strip(), "what": fault.what} for fault in faults],
            "warnings": [str(warning) for warning in loaded.warnings],
            "files": [str(path) for path in loaded.files],
            "written": shown(loaded.config),
            "effective": effective(loaded.config),
        }

    async def change(
        self,
        caller: Caller,
        action: str,
        target: str,
        work: Callable[[Draft], None],
        *,
        proof: Callable[[Loaded], bool] = lambda _: True,
        before: Mapping[str, Any] | None = None,
        after: Callable[[Loaded], Mapping[str, Any] | None] = lambda _: None,
        if_match: str = "",
    ) -> dict[str, Any]:
        """Change the files, write it down, and tell the running relay.

        Args:
            work, proof, if_match: see `relay.config.change`.
            before, after: of the audit trail, masked; `after` looks at the result.

        Returns:
            `etag` of the files now, and `reload`: what became of it in the running relay.

        Raises:
            ConfigError: nothing has changed. OSError becomes one.
        """
        context = self._context
        main = context.current.main

        def apply() -> tuple[Loaded, str]:
            loaded = change(main, work, proof, if_match=if_match)
            return loaded, fingerprint(loaded.files)

        loaded, etag = await asyncio.to_thread(apply)
        await context.audit.note(caller, action, target, before=before, after=after(loaded))
        await context.current.look()
        return {"etag": etag, "reload": await self.reload()}

    async def reload(self) -> dict[str, Any]:
        """Have the relay take its files over, in all workers or in none. `workers`: how many did; `needs_restart`:
        keys that only a restart takes over; `problem`: why it did not."""
        try:
            answer = await self._context.workers.any("reload")
        except ControlError as error:
            return {"workers": 0, "needs_restart": [], "problem": str(error)}
        await self._context.webhooks.take_over(self._context.current.config)
        return {**answer, "problem": ""}
