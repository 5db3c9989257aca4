"""`vlm app` and `vlm serve`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import (
    Device,
    InPrecision,
    Model,
    OpenVino,
    TraceTo,
    load,
    trace_file,
    tracer_of,
    uncollected,
)
from vlm.cli.failures import clear_errors, fail
from vlm.cli.mcp import AllowFolder, AllowMediaDomains, domains
from vlm.options import Precision

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")]
Port = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)]
RootPath = Annotated[
    str | None,
    typer.Option(
        help="Where a reverse proxy shows the app: /vlm, or https://example.org/vlm.",
        show_default=False,
    ),
]
AuthFile = Annotated[
    Path | None,
    typer.Option(help="Let in only those whom this file names.", show_default=False),
]


def app(
    model: Model = None,
    device: Device = "auto",
    openvino: OpenVino = False,
    precision: InPrecision = Precision.float32,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    root_path: RootPath = None,
    auth_file: AuthFile = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Another model that the tab Compare offers; may be given several times.",
            show_default=False,
        ),
    ] = None,
    add_user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Ask for a password, write NAME and its hash into --auth-file, and serve nothing.",
            show_default=False,
        ),
    ] = None,
    trace: TraceTo = None,
) -> None:
    """Caption photos and answer questions about them in the browser."""
    if add_user is not None:
        from vlm.app.accounts import add_account

        if auth_file is None:
            fail("--add-user needs to know where: --auth-file FILE")
        password = typer.prompt(
            f"Password of {add_user}", hide_input=True, confirmation_prompt=True, err=True
        )
        add_account(auth_file, add_user, password)
        typer.echo(f"{auth_file} lets {add_user} in, from the next start of the app.")
        return
    with uncollected():
        from vlm.app.launch import serve

    with trace_file(trace) as file:
        others = {name: load(name, device, openvino, precision) for name in compare or ()}
        captioner = load(model, device, openvino, precision)
        tracers = {
            name: tracer
            for name, shown in {"": captioner, **others}.items()
            if (tracer := tracer_of(file, shown, name or model, openvino, precision))
        }
        serve(captioner, host, port, root_path, auth_file, others, tracers)


def serve(
    model: Model = None,
    device: Device = "auto",
    openvino: OpenVino = False,
    precision: InPrecision = Precision.float32,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    root_path: RootPath = None,
    auth_file: AuthFile = None,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="Serve the app's page, too.")
    ] = True,
    api_keys: Annotated[
        Path | None,
        typer.Option(help="Answer programs only that have a key of this file.", show_default=False),
    ] = None,
    add_key: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Make a key for NAME, print it, write its hash into --api-keys, and serve nothing.",
            show_default=False,
        ),
    ] = None,
    mcp: Annotated[bool, typer.Option("--mcp", help="Serve agents by MCP at /mcp, too.")] = False,
    allow_folder: AllowFolder = None,
    allow_media_domains: AllowMediaDomains = "",
    max_requests: Annotated[
        int, typer.Option(help="Requests at once; further ones get 429 and Retry-After.", min=1)
    ] = 64,
    max_mb: Annotated[float, typer.Option(help="The largest request, in megabytes.")] = 32,
    max_megapixels: Annotated[float, typer.Option(help="The largest image, decoded.")] = 50,
    time_limit: Annotated[float, typer.Option(help="The most seconds that a request takes.")] = 60,
    trace: TraceTo = None,
) -> None:
    """Serve programs by OpenAI's protocol, and the app's page beside it."""
    from vlm.server.api_keys import ApiKeys
    from vlm.server.api_keys import add_key as made_key

    if add_key is not None:
        if api_keys is None:
            fail("--add-key needs to know where: --api-keys FILE")
        key = made_key(api_keys, add_key)
        typer.echo(
            f"{api_keys} has a key for {add_key}, from the next start; it is shown this once:",
            err=True,
        )
        print(key)
        return
    if page and (api_keys is None) != (auth_file is None):
        closed, open_to_all, needed = (
            ("the endpoints for programs", "the page", "--auth-file FILE")
            if auth_file is None
            else ("the page", "the endpoints for programs", "--api-keys FILE")
        )
        fail(
            f"{closed} would be closed and {open_to_all} open; give {needed} as well, or --no-page"
        )
    if not page and (auth_file is not None or root_path is not None):
        fail("--auth-file and --root-path are the page's, which --no-page leaves out")

    if allow_folder and not mcp:
        fail("--allow-folder goes with --mcp: paths are for its tools alone")
    if mcp:
        with clear_errors("mcp"):  # told before a model is loaded
            from vlm.server.mcp_tools import mcp_application

    from vlm.addresses import check_address
    from vlm.server.settings import Settings
    from vlm.weights.hub import DEFAULT

    keys = None if api_keys is None else ApiKeys.read(api_keys)
    settings = Settings(
        model=Path(model or DEFAULT).name,
        max_body=round(max_mb * 1e6),
        max_pixels=round(max_megapixels * 1e6),
        seconds=time_limit,
        max_requests=max_requests,
        media_domains=domains(allow_media_domains),
    )
    check_address(host, port)
    from vlm.engine import Engine
    from vlm.server.listen import listen
    from vlm.server.web import application

    with ExitStack() as stack:
        file = stack.enter_context(trace_file(trace))
        captioner = load(model, device, openvino, precision)
        tracer = tracer_of(file, captioner, model, openvino, precision)
        engine = stack.enter_context(Engine(captioner, tracer))
        shown = None
        if page:
            with uncollected():
                from vlm.app.accounts import Accounts
                from vlm.app.launch import page_application, photo_folder

            stack.enter_context(photo_folder())
            accounts = None if auth_file is None else Accounts.read(auth_file)
            shown = page_application(engine, root_path, accounts)
        agents = None
        if mcp:
            agents = mcp_application(engine, settings, allow_folder or (), host, keys is not None)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        what = f"The page is at {address}, and programs" if page else "Programs"
        listen(
            application(engine, settings, keys, shown, agents),
            host,
            port,
            f"{what} find the model {settings.model} at {address}/v1. Ctrl+C stops the server.",
        )
