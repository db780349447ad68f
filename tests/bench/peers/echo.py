"""A bare aiohttp server on uvloop that sends a body back: `.venv-bench/bin/python echo.py PORT`."""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web


async def echo(request: web.Request) -> web.Response:
    """The same body."""
    return web.Response(body=await request.read(), status=201, content_type="application/json")


def main() -> None:
    """Until a signal."""
    application = web.Application()
    application.router.add_post("/v1/payments", echo)
    uvloop.install()
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
