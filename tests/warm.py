"""A Python that has imported torch already: it runs `-m MODULE …` or `-c CODE …` in a fork, seconds sooner.

    warm_python -m frostline finetune …    what a test or scripts/stage starts: sends its words, folder,
          │                                environment and open files through a socket, exits as the fork does
          ▼
    server                                 imports what is slow, and frostline, then forks for each request

A fork whose PYTHONPATH has another frostline than that beside the tests, or a copy of it, imports that one.
The Pythons that a fork starts, such as its recorder, are other forks; those that run a file are cold, and, if
COLD_WORKERS is set, the workers of its sweep. A fork is no child of the client's parent: what depends on
that, such as ending with the DVC that started us, needs a cold Python.
"""

import array
import contextlib
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import types
from importlib.machinery import PathFinder
from pathlib import Path

SLOW = (
    "torch",
    "torchvision",
    "timm",
    "timm.optim",
    "pytorch_lightning",
    "hydra",
    "pydantic",
    "psutil",
    "rich.progress",
    "rich.table",
    "safetensors.torch",
    "sklearn.datasets",
    "sklearn.utils",
    "mlxtend.data",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "jinja2",
    "mlflow.tracking",
    "mlflow.artifacts",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna",
    "dvc.cli",
    "dvc.repo.reproduce",
    "dvc.repo.experiments",
    "dvc.render.match",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher",
    "joblib.externals.loky.backend.fork_exec",
)
BEFORE_MLFLOW = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}
"""What it looks at as it is imported; as `tracking.store` sets it."""
RECORDER = ["-P", "-m", "frostline.tracking.recorder"]
SRC = Path(__file__).parents[1] / "src"
OURS = ("frostline", "hydra_plugins.frostline_sweeper")
SET_BY_OURS: dict[str, str] = {}
"""Variables that importing frostline sets."""
FILES: dict[str, tuple[int, int]] = {}
"""The files of the frostline that is imported; see `_files`."""
MOST_FILES = 64
START_SECONDS = 300


def warm_python(folder: Path) -> Path:
    """Start the server, which ends with all tests, and return the program that asks it."""
    folder.mkdir()
    program, address = folder / "python", folder / "socket"
    program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    # Without what a test's import of frostline has set: the server's own import tells what that is.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {**BEFORE_MLFLOW, "OMP_NUM_THREADS": "1"}
    tests = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    words = [sys.executable, __file__, str(address), str(program), str(tests)]
    # Not by subprocess, which complains of a process that runs on when nobody has a use for it.
    server = os.posix_spawn(sys.executable, words, environment)
    give_up = time.monotonic() + START_SECONDS
    while not address.exists():
        assert os.waitpid(server, os.WNOHANG) == (0, 0), "the warm Python did not start"
        assert time.monotonic() < give_up, "the warm Python takes too long"
        time.sleep(0.05)
    return program


# By way of the shell, since the first line of a program takes no path with a space in it.
CLIENT = """\
#!/bin/sh
'''exec' "{python}" -IS "$0" "$@"
' '''
import array, json, os, signal, socket, sys
if sys.argv[1] not in ("-m", "-c", "-P"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
files = array.array("i", [0, 1, 2])
for number in sorted(map(int, os.listdir("/dev/fd"))):
    try:
        if number > 2 and os.get_inheritable(number):
            files.append(number)
    except OSError:
        pass
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), files.tolist()]).encode()
link.sendmsg([len(request).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
link.sendall(request)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda number, frame: link.sendall(bytes([number])))
answer = link.recv(1)
os._exit(answer[0] if answer else 1)
"""


def serve(address: str, program: str, tests: str) -> None:
    threading.Thread(target=_end_with, args=(int(tests),), daemon=True).start()
    sys.dont_write_bytecode = False  # the first fork compiles frostline for all
    for name in SLOW:
        importlib.import_module(name)
    _import_ours()
    # So that no fork copies what is here, to look for garbage in it.
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    Path(f"{address}.new").rename(address)
    while True:
        link, _ = listener.accept()
        head, files = _receive_files(link)
        request = json.loads(_receive(link, int.from_bytes(head, "big")))
        child = os.fork()
        if child == 0:
            listener.close()
            link.close()
            if "COLD_WORKERS" in request[2]:
                _start_workers_as(sys.executable)
            sys.executable = program
            _run(*request, files)
        for number in files:
            os.close(number)
        threading.Thread(target=_watch, args=(link, child), daemon=True).start()


def _import_ours() -> None:
    """Import all of frostline, and compose a config, which fills the caches of Hydra's parser."""
    before = dict(os.environ)
    sys.path.insert(0, str(SRC))
    for package in OURS:
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{package}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    from frostline.config import compose

    compose.experiment(["backbone=mlp", "dataset=digits", "optimizer.lr=1e-3"])
    sys.path.remove(str(SRC))
    SET_BY_OURS.update({name: value for name, value in os.environ.items() if before.get(name) != value})
    FILES.update(_files(SRC))


def _files(src: Path) -> dict[str, tuple[int, int]]:
    """A source file's path in `src` → its size and when it changed, which copies keep."""
    paths = {str(path.relative_to(src)): path.stat() for path in src.rglob("*.py")}
    return {path: (status.st_size, status.st_mtime_ns) for path, status in paths.items()}


def _keep_or_forget_ours() -> None:
    """Keep the frostline that is imported if PYTHONPATH has it, or a copy of it; otherwise forget it."""
    spec = PathFinder.find_spec("frostline")
    src = Path(spec.origin).parents[1] if spec and spec.origin else None
    if src is None or _files(src) != FILES:
        for name in [name for name in sys.modules if name.startswith(OURS) or name == "hydra_plugins"]:
            del sys.modules[name]
        return
    for name, value in SET_BY_OURS.items():
        os.environ.setdefault(name, value)
    if src != SRC:
        _move_ours(src)


def _move_ours(src: Path) -> None:
    """Move the frostline that is imported to a copy of it: its paths, and what it has read."""

    def moved(path: Path | str) -> Path:
        return src.parent / Path(path).relative_to(SRC.parent)

    for module in [module for name, module in sys.modules.items() if name.startswith(OURS)]:
        module.__file__ = str(moved(module.__file__))
        if hasattr(module, "__path__"):
            module.__path__ = [str(moved(path)) for path in module.__path__]
        for name, value in list(vars(module).items()):
            if isinstance(value, Path) and value.is_relative_to(SRC.parent):
                setattr(module, name, moved(value))
            elif hasattr(value, "cache_clear"):
                value.cache_clear()


def _start_workers_as(python: str) -> None:
    """Have this Python run the workers of a sweep."""
    from joblib.externals.loky.backend import fork_exec

    start = fork_exec.fork_exec
    fork_exec.fork_exec = lambda words, *given, **more: start([python, *words[1:]], *given, **more)


def _end_with(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(process, 0)
            time.sleep(1.0)
    os._exit(0)


def _run(
    words: list[str], folder: str, environment: dict[str, str], numbers: list[int], files: list[int]
) -> None:
    """Become what `python -m MODULE …` or `python -c CODE …` would be; never returns.

    `files` are to have these `numbers`.
    """
    status = 1
    if words == RECORDER:
        os.setsid()  # as it would be started: what the system gives to a session is shared by its processes
    try:
        # In two steps, since a file may have the number that another one is to have.
        for place, number in enumerate(files):
            files[place] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, max(numbers) + 1)
        for number, file in zip(numbers, files, strict=True):
            os.dup2(file, number)
            os.close(file)
        # Those of the server know whether its own files could seek, which these may not.
        for standard, name in ((1, "stdout"), (2, "stderr")):
            encoding = environment.get("PYTHONIOENCODING", "utf-8")
            stream = open(standard, "w", 1, encoding, closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[0:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
        _keep_or_forget_ours()
        tempfile.tempdir = None  # TMPDIR may be another
        if words[0] == "-P":
            words = words[1:]  # no fork looks for modules in its folder
        signal.signal(signal.SIGINT, signal.default_int_handler)
        match words:
            case "-m", module, *_:
                sys.argv = words[1:]
                if not hasattr(sys.modules.get(module), "__path__"):
                    sys.modules.pop(module, None)  # runpy warns of a module that is imported already
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case "-c", code, *more:
                sys.argv = ["-c", *more]
                sys.modules["__main__"] = types.ModuleType("__main__")
                exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        # What the program asked to be done at its end, such as waiting for the recorder.
        threading._shutdown()
        import atexit

        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _watch(link: socket.socket, child: int) -> None:
    """Tell the client how the fork ended; a client that is gone takes it along."""

    def listen() -> None:
        while number := link.recv(1):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number[0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        link.sendall(bytes([code if code >= 0 else 128 - code]))
    link.close()


def _receive_files(link: socket.socket) -> tuple[bytes, list[int]]:
    head, ancillary, _, _ = link.recvmsg(8, socket.CMSG_SPACE(MOST_FILES * array.array("i").itemsize))
    files = array.array("i")
    for _, _, content in ancillary:
        files.frombytes(content)
    return head, files.tolist()


def _receive(link: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        parts += link.recv(length - len(parts))
    return parts


if __name__ == "__main__":
    serve(*sys.argv[1:])
