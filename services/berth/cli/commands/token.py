"""`berth token`."""

import click

__all__ = ["token"]


@click.command()
@click.argument("subject")
@click.option("--tenant", "tenants", multiple=True, help="Tenant it may act for; repeat; '*' for all")
@click.option("--role", "roles", multiple=True, type=click.Choice(["admin", "agent"]), help="Role; repeat")
@click.option("--node", default="", help="Node that an agent speaks for")
@click.option("--lifetime", default="24h", show_default=True, help="How long it is good, such as 90s, 24h, 30d")
@click.option("--key", envvar="BERTH_AUTH_KEY", required=True, help="Signing key [BERTH_AUTH_KEY]")
def token(subject: str, tenants: tuple[str, ...], roles: tuple[str, ...], node: str, lifetime: str, key: str) -> None:
    """Make an access token for SUBJECT, signed with the key that the services have."""
    from berth.auth import Authenticator
    from berth.errors import InvalidInput
    from berth.jobs import parse_duration

    if len(key) < 32:
        raise InvalidInput.of("BERTH_AUTH_KEY", f"{len(key)} characters", "make one with `openssl rand -hex 32`")
    if "agent" in roles and not node:
        raise InvalidInput.of("node", "", "an agent's token names its node: give --node")
    seconds = parse_duration("lifetime", lifetime)
    click.echo(Authenticator(key).issue(subject, tenants=tenants, roles=roles, node=node, lifetime_seconds=seconds))
