"""The page as a web application: which addresses there are, who may ask, and what a browser is allowed to load."""

from __future__ import annotations

import os
import re
from typing import Any, Final

import gradio as gr
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from boxtune.app.handlers import Handlers
from boxtune.app.page import build_page, style, theme
from boxtune.serve.listening import is_loopback

_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""Nothing comes from another host, whatever Gradio's page asks for; its code needs inline and evaluated script."""

_REPORT_POLICY: Final = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "frame-ancestors 'self'"
)
"""A report is a stranger's page: it runs in an origin of its own, reads nothing of the app and reaches no network."""

_FETCHING: Final = re.compile(r"/(proxy=|file=\s*\w+:/)", re.IGNORECASE)
"""Addresses by which Gradio's server would fetch a file of another host."""


def build_site(handlers: Handlers, host: str) -> FastAPI:
    """The application.

    Args:
        handlers: of the page; its `folder` holds uploads and downloads, and is the only one that files are served from.
        host: that it listens on. On this machine alone, requests that name another host are refused, so that a page
            elsewhere cannot reach in by giving its own name this machine's address.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(handlers.folder)  # read when components are made
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(handlers.folder / "examples")  # it would be served from .gradio/ here
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    site = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @site.get("/reports")
    def report(run: str) -> HTMLResponse:
        file = handlers.catalogue.reports().get(run)
        if file is None:
            raise HTTPException(404, "No such report.")
        return HTMLResponse(file.read_bytes(), headers={"Content-Security-Policy": _REPORT_POLICY})

    page = build_page(handlers)
    # only a page that has been launched refuses files that were not uploaded, and mounting is no launch
    # (`_check_allowed` of gradio/processing_utils.py)
    page.has_launched = True
    gr.mount_gradio_app(
        site,
        page,
        path="/",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        allowed_paths=[],
        blocked_paths=[],
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=handlers.limits.max_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=theme(),
        css=style(),
    )
    site.add_middleware(_Guard)
    if is_loopback(host) and ":" not in host:
        site.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", host])
    return site


class _Guard:
    """Refuses to fetch from other hosts for a client, and adds the page's policy to every answer without its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: Any = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", _POLICY)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _FETCHING.search(scope["path"]):
            await PlainTextResponse("Nothing is fetched from elsewhere.", 403)(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)
