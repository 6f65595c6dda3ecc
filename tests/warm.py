"""A Python that has imported torch already: it runs `-m MODULE …` or `-c CODE …` in a fork, seconds sooner.

    warm_python -m frostline finetune …    what a test or scripts/stage starts: sends its words, folder,
          │                                environment and open files through a socket, exits as the fork does
          ▼
    server                                 imports what is slow and is not ours, then forks for each request

The fork imports frostline anew, from its PYTHONPATH; its recorder and, unless COLD_WORKERS is set, the
workers of its sweep are other forks. A fork is no child of the client's parent: what depends on that, such as
ending with the DVC that started us, needs a cold Python.
"""

import array
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
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
WORKER = [b"-m", b"joblib.externals.loky.backend.popen_loky_posix"]
MOST_FILES = 64
START_SECONDS = 120


def warm_python(folder: Path) -> Path:
    """Start the server, which ends with all tests, and return the program that asks it."""
    folder.mkdir()
    program, address = folder / "python", folder / "socket"
    program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    environment = {**os.environ, **BEFORE_MLFLOW, "OMP_NUM_THREADS": "1"}
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
            _start_recorders_as(program)
            if "COLD_WORKERS" not in request[2]:
                _start_workers_as(program)
            _run(*request, files)
        for number in files:
            os.close(number)
        threading.Thread(target=_watch, args=(link, child), daemon=True).start()


def _start_recorders_as(program: str) -> None:
    """The recorder that a command starts beside itself imports what is slow as well."""

    class Popen(subprocess.Popen):
        def __init__(self, words, *given, **more):
            warm = isinstance(words, list) and words[1:] == RECORDER
            super().__init__([program, *RECORDER] if warm else words, *given, **more)

    subprocess.Popen = Popen


def _start_workers_as(program: str) -> None:
    """So do the workers of its sweep."""
    from joblib.externals.loky.backend import fork_exec

    cold = fork_exec.fork_exec

    def warm(words, *given, **more):
        words = [os.fsencode(word) for word in words]
        return cold([os.fsencode(program), *words[1:]] if words[1:3] == WORKER else words, *given, **more)

    fork_exec.fork_exec = warm


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
        if words[0] == "-P":
            words = words[1:]  # no fork looks for modules in its folder
        option, what = words[:2]
        sys.argv = words[1:] if option == "-m" else [option, *words[2:]]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if option == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            assert option == "-c", option
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), vars(sys.modules["__main__"]))
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
