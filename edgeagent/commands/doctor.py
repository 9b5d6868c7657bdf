"""`edgeagent doctor`: what this machine and this installation have, and what they lack.

edgeagent doctor
edgeagent doctor --tune
edgeagent doctor --prove-offline
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import click

from edgeagent import catalog, config, no_internet, paths, reach, wiring
from edgeagent.commands.terminal import plain
from edgeagent.config import Config
from edgeagent.engine import table_store
from edgeagent.engine.costs import SIZES
from edgeagent.engine.tables import Measured, Setting, Table
from edgeagent.errors import EdgeAgentError
from edgeagent.messages import Json

GIB = 1 << 30
LEAST_PYTHON = (3, 11)
LEAST_MEMORY_GIB = 2.0
CPU_FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""What llama.cpp has kernels for, as /proc/cpuinfo spells it."""
IMPORT = "import llama_cpp; print(llama_cpp.__version__)"
PROOF_TEXT = "Hello, what can you do for me?"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    state: str
    """`ok`, `warn` (works, with a limit) or `fail` (something will not work)."""
    found: str
    """What was found, and what to do about it."""
    detail: dict[str, Json] = field(default_factory=dict)
    """Figures behind it, for programs."""
    rows: tuple[str, ...] = ()
    """The same, for people."""

    def as_json(self) -> dict[str, Json]:
        """Return what `--json` prints of it."""
        said: dict[str, Json] = {"name": self.name, "state": self.state, "found": self.found}
        return said | {"detail": self.detail} if self.detail else said


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--prove-offline", is_flag=True, help="Run a turn where the network is forbidden.")
@click.option("--tune", is_flag=True, help="Measure what the model costs here; up to a minute.")
@click.option("-m", "--model", help="Name, name:QUANT, or a file.")
@click.option("--offline", is_flag=True, default=None, help="Do not ask for the larger model.")
def command(
    as_json: bool, prove_offline: bool, tune: bool, model: str | None, offline: bool | None
) -> int:
    """Check this machine and this installation."""
    if prove_offline and (tune or model):
        raise click.UsageError("--prove-offline goes with neither --tune nor --model")
    checks = list(_proof() if prove_offline else _all(offline, model, tune=tune))
    if as_json:
        click.echo(json.dumps([check.as_json() for check in checks]))
    else:
        for check in checks:
            click.echo(plain(f"{check.state:<5} {check.name:<10} {check.found}"))
            for row in check.rows:
                click.echo(plain(f"{'':<16} {row}"))
    return 1 if any(check.state == "fail" for check in checks) else 0


def _all(offline: bool | None, model: str | None, *, tune: bool) -> Iterator[Check]:
    yield _python()
    yield _cpu()
    yield _memory()
    yield _compiler()
    yield _llama()
    try:
        settings = config.load({"offline": offline, "model.name": model})
    except EdgeAgentError as exc:
        yield Check("settings", "fail", str(exc))
        return
    yield _settings()
    found = _explained("model", lambda: _model(settings))
    yield found
    if found.state == "ok":
        yield _explained("costs", lambda: _costs(settings, tune=tune))
    yield _explained("sessions", _sessions)
    yield _larger(settings)


def _python() -> Check:
    state = "ok" if sys.version_info >= LEAST_PYTHON else "fail"
    return Check("python", state, f"{platform.python_version()} at {sys.executable}")


def _cpu() -> Check:
    found = f"{os.cpu_count()} cores, {platform.machine()}"
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return Check("cpu", "ok", found)
    words = set(file.read_text(encoding="utf-8", errors="replace").split())
    features = [name for name in CPU_FEATURES if name in words]
    slow = "x86_64" in found and "avx2" not in features
    note = "; without AVX2 a step takes several times as long" if slow else ""
    return Check("cpu", "warn" if slow else "ok", f"{found}, {' '.join(features)}{note}")


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    gib = min(total, int(allowed) if allowed.isdigit() else total) / GIB
    if gib >= LEAST_MEMORY_GIB:
        return Check("memory", "ok", f"{gib:.1f} GiB")
    return Check("memory", "warn", f"{gib:.1f} GiB: nano runs, a 1.7B model at Q4 needs 2 GiB")


def _compiler() -> Check:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found:
        return Check("compiler", "ok", found)
    return Check("compiler", "warn", "none; only needed to build llama-cpp-python (Debian: g++)")


def _llama() -> Check:
    # In a process of its own: a build for another CPU dies of SIGILL when it is imported.
    tried = subprocess.run(
        [sys.executable, "-P", "-c", IMPORT], capture_output=True, text=True, check=False
    )
    if tried.returncode == 0:
        return Check("llama.cpp", "ok", f"llama-cpp-python {tried.stdout.strip()}")
    how = f"signal {-tried.returncode}" if tried.returncode < 0 else _last_line(tried.stderr)
    advice = "pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python"
    return Check("llama.cpp", "fail", f"cannot be imported ({how}); build it here: {advice}")


def _settings() -> Check:
    file = paths.config_file()
    if not file.is_file():
        return Check("settings", "ok", f"none in {file}; defaults hold")
    if file.stat().st_mode & 0o077 and "api_key" in file.read_text(encoding="utf-8"):
        return Check("settings", "warn", f"others can read the key in {file}; chmod 600 {file}")
    return Check("settings", "ok", str(file))


def _model(settings: Config) -> Check:
    name = settings.model.name
    if name.startswith(("http://", "https://")):
        return Check("model", "ok", f"a server: {name}")
    model = catalog.resolve(name)
    sha256 = catalog.verify(model)
    size = f"{model.path.stat().st_size / (1 << 20):.0f} MiB"
    known = "its sha256 is right" if sha256 else "no sha256 is known for it"
    return Check(
        "model", "ok", f"{name}: {model.path}, {model.quant or 'unknown'}, {size}, {known}"
    )


def _costs(settings: Config, *, tune: bool) -> Check:
    """Show what passes of the model cost here, measured first if asked to."""
    if settings.model.name.startswith(("http://", "https://")):
        return Check("costs", "ok", "a server's own affair")
    model = catalog.resolve(settings.model.name)
    if tune:
        with closing(wiring.open_engine(settings, model, tuning="again")) as engine:
            table = engine.start().table
    else:
        found = table_store.kept(model.path, paths.cache_dir())
        table = next((table for _, table in found), None)
    if table is None:
        advice = "the next start measures, or at once: edgeagent doctor --tune"
        return Check("costs", "ok", f"not measured yet; {advice}")
    if table.costs is None:
        advice = "nothing is guessed; on a quieter machine: edgeagent doctor --tune"
        return Check("costs", "warn", f"{table.reason}; {advice}", _figures(table), _rows(table))
    tokens, ms = SIZES[-1], table.costs.ms
    return Check(
        "costs", "ok",
        f"{_told(table.setting)}: {ms[0]:.1f} ms per token and {ms[-1]:.1f} ms per {tokens}, "
        f"{table.depth} tokens deep",
        _figures(table), _rows(table),
    )  # fmt: skip


def _figures(table: Table) -> dict[str, Json]:
    return {"sizes": list(SIZES), **dataclasses.asdict(table)}


def _rows(table: Table) -> tuple[str, ...]:
    head = f"{'ms per pass, tokens:':<44}" + "".join(f"{size:>9}" for size in SIZES)
    return (head, *map(_row, table.tried))


def _row(one: Measured) -> str:
    figures = "".join("        -" if ms is None else f"{ms:>9.2f}" for ms in one.ms)
    return f"{_told(one.setting):<44}{figures}"


def _told(setting: Setting) -> str:
    attention = "on" if setting.flash_attention else "off"
    threads = "1 thread" if setting.n_threads == 1 else f"{setting.n_threads} threads"
    return f"{threads}, flash attention {attention}, K {setting.k_type}"


def _sessions() -> Check:
    with closing(wiring.open_store()) as store:
        n_sessions, n_waiting = len(store.sessions()), len(store.outbox())
    free = shutil.disk_usage(paths.data_dir()).free / GIB
    found = (
        f"{n_sessions} in {paths.data_dir()}, {n_waiting} turns in the outbox, {free:.1f} GiB free"
    )
    return Check("sessions", "ok" if free > 0.1 else "warn", found)


def _larger(settings: Config) -> Check:
    remote = settings.remote
    if settings.offline:
        return Check("remote", "ok", "not asked: offline")
    if remote.base_url is None:
        return Check("remote", "ok", "none: hard turns are answered here; set DEFER_BASE_URL")
    key = remote.api_key.get_secret_value() if remote.api_key else None
    problem = reach.probe(remote.base_url.rstrip("/") + "/models", key, remote.connect_s)
    if problem is None:
        return Check("remote", "ok", f"{remote.base_url} answers")
    return Check("remote", "warn", str(problem))


def _explained(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except EdgeAgentError as exc:
        return Check(name, "fail", str(exc))


def _proof() -> Iterator[Check]:
    """Run one turn under a filter that ends any process asking for an internet socket."""
    settings = config.load({"offline": True})
    model = catalog.resolve(settings.model.name)
    if not no_internet.is_enforced():
        advice = "strace -f -e trace=network edgeagent run --offline -p hello"
        yield Check("filter", "fail", f"this kernel cannot forbid sockets; look with: {advice}")
        return
    yield Check("filter", "ok", "a process that asked for an internet socket was ended by SIGSYS")
    with tempfile.TemporaryDirectory(prefix="edgeagent-") as folder:
        turn = _forbidden_turn(model.path, {**os.environ, "XDG_DATA_HOME": folder})
    yield turn


def _forbidden_turn(model: Path, environment: dict[str, str]) -> Check:
    python = [sys.executable, "-m"]
    verb = ["run", "--offline", "--json", "-m", str(model.resolve()), "-p", PROOF_TEXT]
    tried = subprocess.run(
        [*python, "edgeagent.no_internet", *python, "edgeagent", *verb],
        capture_output=True, text=True, check=False, env=environment,
        cwd=paths.bundled("").parent,  # where `edgeagent` is found without being installed
    )  # fmt: skip
    if tried.returncode < 0 or not tried.stdout:
        how = f"signal {-tried.returncode}" if tried.returncode < 0 else _last_line(tried.stderr)
        return Check("turn", "fail", f"a turn under the same filter ended early: {how}")
    turn: Json = json.loads(tried.stdout)
    return Check(
        "turn", "ok" if tried.returncode in (0, 3) else "fail",
        f"under the same filter, inherited by every process of it, {model.name} took "
        f"{turn['stats']['n_steps']} steps, stop={turn['stop']}: {turn['reply']}",
    )  # fmt: skip


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]
