"""nginx, HAProxy, Caddy, Envoy and Traefik as plain HTTP proxies before one upstream, each as its makers
advise for two cores: kept connections to the upstream, no access log, two workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.bench import payments
from tests.bench.children import Child, bench_program, cpu_s, kept
from tests.bench.place import Place
from tests.bench.rounds import Measure, Unavailable, WrongAnswer
from tests.ports import free_ports

KEPT: Final = 256
ANSWER: Final = payments.body(1).decode()
_SAID: Final = re.compile(r"^edgegw (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)
SCRIPT: Final = Path(__file__).with_name("pass.lua")


class Proxy(NamedTuple):
    """How one is started."""

    name: str
    program: Callable[[], str | Path]
    settings: Callable[[Path, int, int], list[str]]
    """Writes its settings into a folder, for a port and its upstream's; the words behind its name."""


def installed(name: str) -> Callable[[], str]:
    """A program of Debian's."""

    def find() -> str:
        found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
        if found is None:
            raise Unavailable(f"there is no {name}: run .ci/setup-bench as root")
        return found

    return find


def nginx(folder: Path, port: int, upstream: int, *, answer: str = "") -> list[str]:
    """A proxy, or the upstream itself, which answers every request alike."""
    where = (
        f"default_type application/json; return 200 '{answer}';"
        if answer
        else 'proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";'
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off;\n"
        "events { worker_connections 4096; multi_accept on; }\n"
        "http { access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;\n"
        f"client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n"
        f"fastcgi_temp_path {folder}/fast; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n"
        f"upstream up {{ server 127.0.0.1:{upstream}; keepalive {KEPT}; keepalive_requests 1000000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ {where} }} }} }}\n"
    )
    return ["-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, port: int, upstream: int) -> list[str]:
    """In the foreground."""
    (folder / "haproxy.cfg").write_text(
        "global\n  nbthread 2\n  maxconn 4096\n"
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n"
        "  http-reuse always\n"
        f"listen pass\n  bind 127.0.0.1:{port} backlog 1024\n  server up 127.0.0.1:{upstream}\n"
    )
    return ["-db", "-f", str(folder / "haproxy.cfg")]


def caddy(folder: Path, port: int, upstream: int) -> list[str]:
    """Without its admin port and certificates."""
    (folder / "Caddyfile").write_text(
        "{\n  admin off\n  auto_https off\n  persist_config off\n}\n"
        f"http://127.0.0.1:{port} {{\n  reverse_proxy 127.0.0.1:{upstream} {{\n"
        f"    transport http {{\n      keepalive_idle_conns_per_host {KEPT}\n    }}\n  }}\n}}\n"
    )
    return ["run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def envoy(folder: Path, port: int, upstream: int) -> list[str]:
    """One listener, one cluster, two threads."""
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]
    connections = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network"
            ".http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "pass",
            "generate_request_id": False,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [router],
        },
    }
    endpoint = {"endpoint": {"address": _address(upstream)}}
    limits = {"thresholds": [{"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}]}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": limits,
        "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {"name": "pass", "address": _address(port), "filter_chains": [{"filters": [connections]}]}
    settings = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    (folder / "envoy.json").write_text(json.dumps(settings))
    words = ["-c", str(folder / "envoy.json"), "--concurrency", "2", "--log-level", "error"]
    return [*words, "--disable-hot-restart"]


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def traefik(folder: Path, port: int, upstream: int) -> list[str]:
    """From two files; it asks nobody for a newer version."""
    (folder / "dynamic.yml").write_text(
        "http:\n  routers:\n    pass:\n      rule: PathPrefix(`/`)\n      service: up\n  services:\n    up:\n"
        f"      loadBalancer:\n        servers:\n          - url: http://127.0.0.1:{upstream}\n"
    )
    (folder / "traefik.yml").write_text(
        "global:\n  checkNewVersion: false\n  sendAnonymousUsage: false\n"
        f"entryPoints:\n  pass:\n    address: 127.0.0.1:{port}\n"
        f"serversTransport:\n  maxIdleConnsPerHost: {KEPT}\n"
        f"log:\n  level: ERROR\nproviders:\n  file:\n    filename: {folder}/dynamic.yml\n"
    )
    return [f"--configFile={folder}/traefik.yml"]


PROXIES: Final = (
    Proxy("nginx", installed("nginx"), nginx),
    Proxy("HAProxy", installed("haproxy"), haproxy),
    Proxy("Caddy", lambda: bench_program("caddy"), caddy),
    Proxy("Envoy", lambda: bench_program("envoy"), envoy),
    Proxy("Traefik", lambda: bench_program("traefik"), traefik),
)


class Upstream:
    """nginx, which answers with a payment's body: far faster than what stands before it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.port = 0

    def open(self, stack: ExitStack) -> None:
        """Once."""
        if not self.port:
            folder = self._place.fresh("upstream")
            folder.mkdir()
            [port] = free_ports(1)
            words = [installed("nginx")(), *nginx(folder, port, 1, answer=ANSWER)]
            kept(stack, Child(words, log=folder / "log")).listens(port)
            self.port = port


class ProxyLane:
    """wrk's payments through a proxy; each answer must be the upstream's."""

    def __init__(self, place: Place, upstream: Upstream, proxy: Proxy, *, connections: int) -> None:
        self.name = f"{proxy.name}, {connections} connections"
        self._place, self._upstream, self._proxy = place, upstream, proxy
        self._connections = connections

    def open(self, stack: ExitStack) -> None:
        """Start it."""
        program = self._proxy.program()
        self._upstream.open(stack)
        folder = self._place.fresh(self._proxy.name.lower())
        folder.mkdir()
        [self._port] = free_ports(1)
        words = [program, *self._proxy.settings(folder, self._port, self._upstream.port)]
        self._child: Child = kept(stack, Child(words, log=folder / "log", cwd=folder))
        self._child.listens(self._port)

    def measure(self, seconds: float) -> Measure:
        """By wrk."""
        return wrk(self._child.pid, self._port, connections=self._connections, seconds=seconds)

    def check(self) -> None:
        """Each answer was looked at."""


def wrk(pid: int, port: int, *, connections: int, seconds: float) -> Measure:
    """POST a payment over so many connections; raises WrongAnswer where one answer was another than the
    upstream's."""
    program = installed("wrk")()
    before_s = cpu_s(pid)
    words = [
        program,
        "-t",
        "1",
        "-c",
        str(connections),
        "-d",
        f"{max(1, round(seconds))}s",
        "-s",
        str(SCRIPT),
    ]
    done = subprocess.run(
        [*words, f"http://127.0.0.1:{port}/v1/payments"],
        capture_output=True,
        text=True,
        env={**os.environ, "EDGEGW_BENCH_BODY": ANSWER},
        check=False,
    )
    used_s = cpu_s(pid) - before_s
    found = _SAID.search(done.stdout)
    if found is None:
        raise WrongAnswer(f"wrk said: {done.stdout[-300:]} {done.stderr[-300:]}")
    count, microseconds, wrong, p50, p99, p999 = map(int, found.groups())
    if wrong:
        raise WrongAnswer(f"{wrong} of {count} answers were wrong or none")
    latency = {"p50": p50 / 1e3, "p99": p99 / 1e3, "p999": p999 / 1e3}
    return Measure(count=count, seconds=microseconds / 1e6, cpu_s=used_s, latency_ms=latency)
