"""`palestra serve`: an environment over HTTP and WebSocket, for agents that live elsewhere."""

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("serve")(serve)


def serve(
    env: Annotated[str, typer.Argument(help="Environment id, e.g. palestra/Dice-v0.")],
    variant: Annotated[str, typer.Option(help="Variant that every session plays.")] = "train",
    host: Annotated[str, typer.Option(help="Address to listen on. There is no authentication.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one and says which.", min=0, max=65535)] = 8000,
    max_sessions: Annotated[int, typer.Option(help="Sessions at a time.", min=1)] = 64,
    idle_s: Annotated[float, typer.Option(help="Seconds after which an idle session ends.", min=1)] = 1800,
    sandbox: Annotated[
        str, typer.Option(help="Where tools run code: local, docker, e2b or unsafe-process (no isolation).")
    ] = "local",
) -> None:
    """Serve an environment in OpenEnv's protocol.

    Example: `palestra serve palestra/Dice-v0 --variant test --port 8000`
    """
    import socket

    from palestra.envs import spec

    spec(env)  # a misspelled id is told before a missing package
    from palestra.envs.adapters.openenv import make_app
    from palestra.envs.errors import UsageError
    from palestra.envs.sandbox.shared import use_sandbox

    use_sandbox(sandbox)
    served = make_app(env, variant, max_sessions=max_sessions, idle_s=idle_s)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot listen on {host} port {port} ({reason}); choose another --host or --port") from None

    import uvicorn

    name = f"[{host}]" if ":" in host else host
    typer.echo(f"serving {env} (variant {variant}) on http://{name}:{listening.getsockname()[1]}; Ctrl-C ends it")
    server = uvicorn.Server(uvicorn.Config(served, log_level="warning", timeout_graceful_shutdown=5))
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        typer.echo("the server has ended")
