"""Bridges: seen without their secrets, made with a generated password, changed, rotated, revoked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from yaml.nodes import MappingNode

from relay.admin.context import Context
from relay.admin.refusals import Refused, not_found
from relay.admin.security.roles import Caller
from relay.admin.services.changes import difference, read, written
from relay.admin.services.configuration import Configuration
from relay.admin.services.masking import shown
from relay.admin.services.places import Spot, find, home_of
from relay.bridges.credentials import generate_token
from relay.config import Config, values
from relay.config.change import Draft
from relay.config.models.traffic import BridgeModel
from relay.config.yaml_edit import CannotEdit, text_of

BRIDGE: TypeAdapter[BridgeModel] = TypeAdapter(BridgeModel)

Row = dict[str, Any]


class Bridges:
    def __init__(self, context: Context, configuration: Configuration) -> None:
        self._context = context
        self._configuration = configuration

    async def list(self) -> list[Row]:
        config = (await self._context.current.look()).config
        return [_row(config, bridge) for bridge in config.bridges]

    async def show(self, name: str) -> Row:
        for row in await self.list():
            if row["name"] == name:
                return row
        raise not_found("bridge", name)

    async def create(self, caller: Caller, body: Mapping[str, Any], *, if_match: str = "") -> Row:
        """Add a bridge. With `username` (its name when left out) it gets a login; `password` is told only now. With
        `networks` alone, and `username` null, it has none."""
        config = (await self._context.current.look()).config
        given = dict(body)
        username = given.pop("username", given.get("name"))
        if "credentials" in given:
            raise Refused(422, "passwords are generated: give `username` instead of `credentials`")
        password = None
        if username is not None:
            password, stored = generate_token()
            given["credentials"] = [{"username": username, "password": stored}]
        bridge = read(BRIDGE, given)
        name = str(getattr(bridge, "name", ""))
        if any(other.name == name for other in config.bridges):
            raise Refused(409, f"a bridge is called {name!r} already")
        if not given.get("pool") and not values.default_pool(config):
            raise Refused(422, "say which pool; none is the default")
        done = await self._configuration.change(
            caller, "bridge.add", name, lambda draft: home_of(draft, "bridges").add("bridges", {"name": name, **given}),
            proof=lambda after: any(b == bridge for b in after.config.bridges),
            after=lambda after: _shown(after.config, name), if_match=if_match,
        )  # fmt: skip
        return {"bridge": await self.show(name), "username": username, "password": password, **done}

    async def update(
        self, caller: Caller, name: str, body: Mapping[str, Any], *, partial: bool, if_match: str = ""
    ) -> Row:
        """Change a bridge; its logins have paths of their own and stay."""
        current = await self._known(name)
        if body.get("name", name) != name:
            raise Refused(
                409, "a bridge keeps its name, which its mail and caps are kept under; add another one instead"
            )
        if "credentials" in body:
            raise Refused(422, "logins are changed by rotate and revoke")
        body = {"name": name, **body}
        base = {k: v for k, v in written(current).items() if k != "credentials"} if partial else {}
        wanted = read(BRIDGE, {k: v for k, v in {**base, **body}.items() if v is not None})
        changes = difference({k: v for k, v in body.items() if v is not None}, wanted, current, partial=partial)
        gone = ({k for k, v in body.items() if v is None} | set(changes.remove)) - {"credentials"}

        def work(draft: Draft) -> None:
            spot = find(draft, "bridges", name)
            for key, value in changes.write.items():
                spot.text.set(key, value, of=spot.item)
            for key in sorted(gone):
                spot.text.unset(key, of=spot.item)

        done = await self._configuration.change(
            caller, "bridge.update", name, work, before=_shown(self._context.current.config, name),
            proof=lambda after: any(
                b.name == name and b.model_copy(update={"credentials": ()}) == wanted for b in after.config.bridges
            ),
            after=lambda after: _shown(after.config, name), if_match=if_match,
        )  # fmt: skip
        return {"bridge": await self.show(name), **done}

    async def rotate(
        self, caller: Caller, name: str, *, username: str = "", keep: bool = False, if_match: str = ""
    ) -> Row:
        """A new password, told only now.

        Args:
            username: which login, for a bridge with several.
            keep: leave the old login as it is and add another one beside it, to be revoked when all clients have
                changed; else the old password ends at once.
        """
        current = await self._known(name)
        logins = [credential.username for credential in current.credentials]
        if not username and len(logins) != 1:
            raise Refused(422, f"say which username; there are: {', '.join(logins) or 'none'}")
        username = username or logins[0]
        if username not in logins:
            raise not_found("login", username)
        password, stored = generate_token()
        taken = {c.username for b in self._context.current.config.bridges for c in b.credentials}
        login = (
            next(f"{username}-{n}" for n in range(2, 10_000) if f"{username}-{n}" not in taken) if keep else username
        )

        def work(draft: Draft) -> None:
            spot = find(draft, "bridges", name)
            if keep:
                spot.text.add("credentials", {"username": login, "password": stored}, of=spot.item)
            else:
                spot.text.set("password", stored, of=_login(spot, username, logins))

        wanted = [*logins, login] if keep else logins
        done = await self._configuration.change(
            caller, "bridge.rotate", name, work,
            proof=lambda after: _stored(after.config, name, login) == stored and _logins(after.config, name) == wanted,
            before={"logins": logins}, after=lambda _: {"logins": wanted, "rotated": login}, if_match=if_match,
        )  # fmt: skip
        return {"bridge": await self.show(name), "username": login, "password": password, **done}

    async def revoke(self, caller: Caller, name: str, username: str, *, if_match: str = "") -> Row:
        """Take one login away; sessions that use it end at their next MAIL."""
        current = await self._known(name)
        logins = [credential.username for credential in current.credentials]
        if username not in logins:
            raise not_found("login", username)
        left = [login for login in logins if login != username]
        if not left and not current.networks:
            raise Refused(409, f"{username} is the only way into bridge {name}; delete the bridge, or rotate the login")

        def work(draft: Draft) -> None:
            spot = find(draft, "bridges", name)
            spot.text.remove("credentials", _position(spot, username, logins), of=spot.item)

        done = await self._configuration.change(
            caller, "bridge.revoke", name, work, proof=lambda after: _logins(after.config, name) == left,
            before={"logins": logins}, after=lambda _: {"logins": left}, if_match=if_match,
        )  # fmt: skip
        return {"bridge": await self.show(name), **done}

    async def delete(self, caller: Caller, name: str, *, if_match: str = "") -> Row:
        """Remove a bridge. Mail that was accepted from it is still delivered."""
        await self._known(name)
        config = self._context.current.config
        left = [bridge.name for bridge in config.bridges if bridge.name != name]
        done = await self._configuration.change(
            caller, "bridge.delete", name, lambda draft: find(draft, "bridges", name).remove(),
            proof=lambda after: [bridge.name for bridge in after.config.bridges] == left,
            before=_shown(config, name), if_match=if_match,
        )  # fmt: skip
        return {"deleted": [name], **done}

    async def _known(self, name: str) -> BridgeModel:
        config = (await self._context.current.look()).config
        for bridge in config.bridges:
            if bridge.name == name:
                return bridge
        raise not_found("bridge", name)


def _position(spot: Spot, username: str, logins: list[str]) -> int:
    """In the file a name may stand as ${NAME}; the order is the same."""
    written = [text_of(item, "username") for item in spot.text.items("credentials", of=spot.item)]
    if len(written) != len(logins):
        raise CannotEdit("the logins are not written as plain YAML; edit them by hand")
    return written.index(username) if username in written else logins.index(username)


def _login(spot: Spot, username: str, logins: list[str]) -> MappingNode:
    return spot.text.items("credentials", of=spot.item)[_position(spot, username, logins)]


def _logins(config: Config, name: str) -> list[str]:
    return [c.username for bridge in config.bridges if bridge.name == name for c in bridge.credentials]


def _stored(config: Config, name: str, username: str) -> str:
    return next(
        c.password.get_secret_value()
        for bridge in config.bridges
        if bridge.name == name
        for c in bridge.credentials
        if c.username == username
    )


def _row(config: Config, bridge: BridgeModel) -> Row:
    options = shown(bridge)
    options.pop("credentials", None)
    return {
        "name": bridge.name,
        "pool": bridge.pool or values.default_pool(config),
        "usernames": [credential.username for credential in bridge.credentials],
        "options": options,
    }


def _shown(config: Config, name: str) -> Row | None:
    return next((shown(bridge) for bridge in config.bridges if bridge.name == name), None)
