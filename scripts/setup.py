"""Make .venv what requirements.lock says. scripts/setup finds the Python that runs this.

Three layers, each made again only when what it is made from has changed:

    environment   the interpreter and the folder it lies in
    packages      requirements.lock: exact versions, every file checked against its hash
    project       frostline itself, editable, and the folder of its commands on PATH

`.venv/frostline-setup` says what the layers were made from. It is written last and emptied first, so an
environment that was half made, or moved, is never taken for a whole one. Standard library only.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import py_compile
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "frostline-setup"
LOG = VENV / "frostline-setup.log"
LOCK = ROOT / "requirements.lock"

# Of pip's and uv's variables, those that say how to reach packages are kept; those that would change what is
# installed, or where, are not.
REACH = re.compile(
    r"(PIP|UV)_\w*(INDEX|FIND_LINKS|CERT|TLS|PROXY|HOST|KEYRING|CREDENTIALS|HTTP|TIMEOUT|RETRIES|CACHE_DIR|CONFIG_FILE)"
)

# The lines of pip's and uv's output that are shown: the long downloads (hundreds of MB) and what is done.
TELLING = re.compile(r"\s*(Downloading \S+ \((\d{3,}\.|.*GiB)|Prepared |Installed |Bytecode )")

DISK_FULL = (
    f"the disk is full: the packages take about 7 GB in {VENV} and, if that is another disk, as much again"
    " in uv's cache (UV_CACHE_DIR says where): make room, then run this again."
)
NO_SPACE = re.compile(r"no space left|disk quota exceeded", re.I)
NO_NETWORK = re.compile(
    r"dns error|name resolution|name or service not known|nodename nor servname|failed to lookup|proxy|tunnel"
    r"|connection (?:refused|reset|error|timed out|broken)|connect error|network is unreachable|timed? ?out"
    r"|error sending request|failed to fetch|certificate|no matching distribution found for uv==",
    re.I,
)


class SetupError(Exception):
    """One sentence: what is wrong and what to do."""


class NotFetchedError(SetupError):
    """The packages could not be had; nothing in .venv was changed."""


def main() -> None:
    if read_stamp() == made_from():
        return
    with one_at_a_time():
        have, want = read_stamp(), made_from()
        if have == want:
            return
        started = time.monotonic()
        if have.get("environment") != want["environment"]:
            make_environment()
            have = {"environment": want["environment"]}
        write_stamp({})
        if have.get("packages") != want["packages"]:
            try:
                install_packages()
            except NotFetchedError:
                write_stamp(have)
                raise
        install_project()
        write_stamp(want)
        say(f"done in {time.monotonic() - started:.0f} s")


def made_from() -> dict[str, str]:
    """What each layer should be made from, as the stamp records it."""
    return {
        "environment": f"{VENV} with Python {version()} of {sys.base_prefix}",
        "packages": digest(LOCK),
        "project": digest(ROOT / "pyproject.toml", ROOT / "scripts" / "venv_path.py", Path(__file__)),
    }


def read_stamp() -> dict[str, str]:
    """What each layer was made from; empty when there is no whole environment."""
    with contextlib.suppress(OSError, ValueError):
        if PYTHON.exists():
            return dict(line.split(": ", 1) for line in STAMP.read_text().splitlines())
    return {}


def write_stamp(layers: dict[str, str]) -> None:
    STAMP.write_text("".join(f"{layer}: {source}\n" for layer, source in layers.items()))


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the project's set-up lock. Our child processes hold it too: one that outlives us is waited for."""
    path = ROOT / ".frostline" / "setup.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as handle:
        os.set_inheritable(handle.fileno(), True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this folder is at work: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make_environment() -> None:
    """Put an empty environment, with uv in it, where .venv is."""
    VENV.mkdir(exist_ok=True)
    if not STAMP.exists() and any(VENV.iterdir()):
        raise SetupError(f"{VENV} was not made by this: move it away or delete it, then run this again.")
    if importlib.util.find_spec("venv") is None:
        raise SetupError(
            f"{base_python()} has no venv module: install it"
            " (on Debian: apt-get install python3-venv), then run this again."
        )
    import venv

    say(f"making .venv with Python {version()}; the first time, this downloads up to 3 GB")
    write_stamp({})
    for left_over in set(VENV.iterdir()) - {STAMP}:
        if left_over.is_dir() and not left_over.is_symlink():
            shutil.rmtree(left_over)
        else:
            left_over.unlink()
    venv.create(VENV.resolve(), symlinks=True, prompt="frostline")
    install_uv()


def install_uv() -> None:
    """Bootstrap uv with pip, from the lock's own entry."""
    entry = VENV / "uv.txt"
    entry.write_text(lock_entry("uv"))
    say("installing uv")
    run(*find_pip(), "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", str(entry))
    entry.unlink()


def find_pip() -> list[str]:
    """The command of a pip for .venv: its own, else Python's bundled one, else (Debian) the system's."""
    inner = [str(PYTHON), "-m", "pip"]
    outer = [str(base_python()), "-m", "pip", "--python", str(PYTHON)]
    if works(inner):
        return inner
    if importlib.util.find_spec("ensurepip"):
        run(str(PYTHON), "-m", "ensurepip")
        return inner
    if works(outer):
        return outer
    raise SetupError(
        f"{base_python()} has neither ensurepip nor a pip newer than 22.2: install one of them"
        " (on Debian: apt-get install python3-venv), then run this again."
    )


def lock_entry(name: str) -> str:
    """The lines of `name` in the lock: its version and its hashes."""
    entry = re.search(rf"^{name}==(?:.*\\\n)*.*\n", LOCK.read_text(), re.M)
    if entry is None:
        raise SetupError(f"{LOCK} has no {name} in it: restore it (git checkout requirements.lock).")
    return entry[0]


def install_packages() -> None:
    """Everything in the lock. What builds from source is built with the lock's own setuptools."""
    lock = str(LOCK)
    say(f"installing {len(re.findall('^[a-z].*==', LOCK.read_text(), re.M))} packages")
    build = ("--build-constraints", lock, "--require-build-hashes")
    uv_install("--require-hashes", *build, "--compile-bytecode", "--requirements", lock, **pips_index())


def pips_index() -> dict[str, str]:
    """Where pip was told to look for packages, as a setting of uv's, which reads none of pip's."""
    if any(re.match(r"UV_\w*INDEX", key) for key in os.environ):
        return {}
    asked = [*find_pip(), "config", "get", "global.index-url"]
    answer = subprocess.run(asked, env=environment(), capture_output=True, text=True).stdout.strip()
    index = os.environ.get("PIP_INDEX_URL") or answer
    return {"UV_DEFAULT_INDEX": index} if index else {}


def install_project() -> None:
    """frostline, editable, built with the lock's backend; and .venv/bin on PATH of all that runs in it."""
    say("installing frostline")
    uv_install("--offline", "--no-deps", "--no-build-isolation", "--reinstall", "--editable", str(ROOT))
    site_packages = VENV / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    module = site_packages / "_frostline_path.py"
    shutil.copy(ROOT / "scripts" / "venv_path.py", module)
    py_compile.compile(str(module), doraise=True)
    (site_packages / "_frostline_path.pth").write_text("import _frostline_path\n")


def uv_install(*arguments: str, **variables: str) -> None:
    run(str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON), *arguments, **variables)


def run(*command: str, **variables: str) -> None:
    """Run a step, show its telling lines, keep all in the log; a failure becomes one sentence."""
    output = []
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment() | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        close_fds=False,  # so that it holds the set-up lock for as long as it lives
    )
    with LOG.open("a") as log, process:
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            log.write(line)
            if TELLING.match(line):
                print(f"  {line.strip()}", flush=True)
    if process.returncode:
        raise failure(command, "".join(output))


def works(command: list[str]) -> bool:
    return not subprocess.run([*command, "--version"], env=environment(), capture_output=True).returncode


def environment() -> dict[str, str]:
    """The caller's variables, less what would lead pip, uv and Python astray."""
    astray = ("PYTHON", "PIP_", "UV_", "VIRTUAL_ENV", "CONDA")
    kept = {key: value for key, value in os.environ.items() if REACH.match(key) or not key.startswith(astray)}
    kept.setdefault("PIP_RETRIES", "2")
    kept.setdefault("UV_HTTP_TIMEOUT", "120")
    if ssl.create_default_context().get_ca_certs():
        # As pip does: a company's proxy signs with a certificate that only the system knows.
        kept.setdefault("UV_SYSTEM_CERTS", "true")
    return kept | {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "UV_PYTHON_DOWNLOADS": "never"}


def failure(command: tuple[str, ...], output: str) -> SetupError:
    """What to tell the user of a step that failed with this output."""
    if NO_SPACE.search(output):
        return SetupError(DISK_FULL)
    if NO_NETWORK.search(output):
        settings = sorted(key for key in os.environ if re.search(r"(?i)(PIP|UV)_.*INDEX|_(PROXY|CERT)$", key))
        suspects = "the network" + (f" and {', '.join(settings)}" if settings else "")
        return NotFetchedError(
            f"the packages could not be fetched: check {suspects}, then run this again (details: {LOG})."
        )
    step = " ".join([Path(command[0]).name, *command[1:3]])
    last = output.strip().splitlines()[-1:] or ["nothing"]
    return SetupError(f"`{step}` failed, saying '{last[0].strip()}'; all that it said is in {LOG}.")


def base_python() -> Path:
    """The interpreter outside any virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable))


def version() -> str:
    return sys.version.split()[0]


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def say(message: str) -> None:
    print(f"frostline set-up: {message}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"frostline set-up: {error}")
    except OSError as error:
        sys.exit(f"frostline set-up: {DISK_FULL if error.errno == errno.ENOSPC else error}")
    except KeyboardInterrupt:
        print("\nfrostline set-up: stopped; the next run starts it over.", file=sys.stderr)
        sys.exit(130)
