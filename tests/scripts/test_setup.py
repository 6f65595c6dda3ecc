"""scripts/: set-up, the wrappers around it, and the lock. No network, and no environment but tiny ones."""

import fcntl
import hashlib
import inspect
import os
import re
import shutil
import ssl
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("lock", "reproduce", "setup", "stage", "test")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the real scripts and nothing else, in a folder with a space in its name."""
    root = tmp_path / "my projects" / "frost line"
    (root / "scripts").mkdir(parents=True)
    for name in SCRIPTS:
        shutil.copy(ROOT / "scripts" / name, root / "scripts")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "requirements.lock").write_text("uv==1.0 \\\n    --hash=sha256:aa\nxyz==2\n    # via uv\n")
    return root


def write_command(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(*command: str | Path, cwd: Path | str = "/", **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin"} | variables
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


class TestStage:
    """scripts/stage: which Python, which code."""

    TELL = 'echo "$0|$PYTHONPATH|$(pwd)"; for word in "$@"; do echo "$word"; done; exit 7'

    def test_runs_frostline_with_the_projects_python_and_code(self, project):
        write_command(project / ".venv/bin/python", self.TELL)
        done = run(project / "scripts/stage", "finetune", "name=a b", cwd=project)
        assert done.stdout.splitlines() == [
            f"{project}/.venv/bin/python|{project}/src|{project}",
            *["-m", "frostline", "finetune", "name=a b"],
        ]
        assert done.returncode == 7

    def test_an_experiments_workspace_runs_its_own_code_with_the_projects_python(self, project):
        workspace = project / ".dvc/tmp/exps/standalone/tmp1"
        shutil.copytree(project / "scripts", workspace / "scripts")
        write_command(project / ".venv/bin/python", self.TELL)
        done = run("scripts/stage", "evaluate", cwd=workspace, PYTHONPATH="/mine")
        assert done.stdout.splitlines()[0] == f"{project}/.venv/bin/python|{workspace}/src:/mine|{workspace}"

    def test_frostline_python_wins(self, project, tmp_path):
        write_command(project / ".venv/bin/python", self.TELL)
        write_command(tmp_path / "other python", self.TELL)
        done = run(project / "scripts/stage", "x", FROSTLINE_PYTHON=str(tmp_path / "other python"))
        assert done.stdout.startswith(f"{tmp_path}/other python|")

    def test_without_an_environment_python3_on_path(self, project, tmp_path):
        write_command(project.parent / ".venv/bin/python", "echo somebody else's")
        write_command(tmp_path / "bin/python3", self.TELL)
        done = run(project / "scripts/stage", "x", PATH=f"{tmp_path}/bin:/usr/bin:/bin")
        assert done.stdout.startswith(f"{tmp_path}/bin/python3|")


def write_wheel(folder, name, version, files):
    """Write a wheel with these files. The projects' build backend contains a copy of this function."""
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},," for path in (*files, f"{info}/RECORD")]
    with zipfile.ZipFile(f"{folder}/{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in (files | {f"{info}/RECORD": "\n".join(record) + "\n"}).items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = 0o100755 << 16  # pip and uv leave the commands executable
            archive.writestr(entry, text)
    return f"{name}-{version}-py3-none-any.whl"


class Project:
    """A project that scripts/setup can set up without network: tiny wheels, and uv's calls the real uv."""

    def __init__(self, root: Path, wheels: Path) -> None:
        self.root, self.wheels = root, wheels
        self.variables = {
            "PATH": f"{wheels}/bin:/usr/bin:/bin",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(wheels),
            "UV_CACHE_DIR": f"{wheels}/cache",
            # What would lead pip, uv and Python astray.
            "PIP_TARGET": "/nonexistent",
            "PIP_REQUIRE_VIRTUALENV": "x",
            "UV_SYSTEM_PYTHON": "1",
            "UV_EXCLUDE_NEWER": "2001-01-01",
            "PYTHONHOME": "/nonexistent",
            "VIRTUAL_ENV": "/nonexistent",
        }
        (wheels / "bin").mkdir(parents=True)
        (wheels / "bin" / f"python3.{sys.version_info[1]}").symlink_to(sys._base_executable)
        real = Path(sys.executable).with_name("uv")
        log_and_run = f'#!/bin/sh\nenv >"$(dirname "$0")/../uv-environment"\nexec "{real}" "$@"\n'
        write_wheel(wheels, "uv", "1.0", {"uv-1.0.data/scripts/uv": log_and_run})
        for version in ("1.0", "2.0"):
            write_wheel(wheels, "tiny", version, {"tiny/__init__.py": f"version = {version}\n"})
        write_wheel(wheels, "own", "1.0", {"own.py": ""})

        (root / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/setup", root / "scripts")
        (root / "src").mkdir()
        (root / "src" / "frostline.py").touch()
        (root / "pyproject.toml").write_text(
            '[project]\nname = "frostline"\nversion = "0.1"\n'
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
        (root / "backend.py").write_text(
            f"import os, zipfile\n{inspect.getsource(write_wheel)}\n"
            "def build_editable(folder, config_settings=None, metadata_directory=None):\n"
            "    files = {'frostline.pth': os.getcwd() + '/src'}\n"
            "    return write_wheel(folder, 'frostline', '0.1', files)\n"
        )
        self.lock()

    def lock(self, tiny: str = "1.0", digest: str = "") -> None:
        digests = {
            path.name.rsplit("-", 3)[0]: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.wheels.glob("*.whl")
        }
        (self.root / "requirements.lock").write_text(
            f"tiny=={tiny} \\\n    --hash=sha256:{digest or digests[f'tiny-{tiny}']}\n    # via other\n"
            f"uv==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{digests['uv-1.0']}\n"
        )

    def change_pyproject(self) -> None:
        with (self.root / "pyproject.toml").open("a") as file:
            file.write("# changed\n")

    def setup(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return run(self.root / "scripts/setup", **self.variables | variables)

    def python(self, code: str) -> str:
        done = run(self.root / ".venv/bin/python", "-c", code)
        return done.stdout.strip() or done.stderr

    def is_whole(self) -> bool:
        code = "import os, shutil, tiny, frostline; print(tiny.version, shutil.which('uv'))"
        return self.python(code) == f"1.0 {self.root}/.venv/bin/uv"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that was set up, in a folder with a space in its name; each test leaves it whole."""
    folder = tmp_path_factory.mktemp("setup")
    project = Project(folder / "my projects" / "frost line", folder / "wheels")
    done = project.setup()
    assert done.returncode == 0, done.stderr
    return project


class TestSetup:
    """scripts/setup, from another folder, with real environments."""

    def test_installs_the_lock_and_the_project(self, made):
        assert made.is_whole()
        assert made.python("import frostline; print(frostline.__file__)") == f"{made.root}/src/frostline.py"
        assert list(made.root.glob(".venv/lib/*/site-packages/tiny/__pycache__/__init__.*.pyc"))

    def test_does_nothing_and_needs_nothing_the_second_time(self, made):
        before = (made.root / ".venv/frostline-setup").stat().st_mtime_ns
        done = run(made.root / "scripts/setup", PATH="/usr/bin:/bin", HTTPS_PROXY="http://127.0.0.1:9")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (made.root / ".venv/frostline-setup").stat().st_mtime_ns == before

    def test_installs_what_has_changed_and_keeps_the_users_own_packages(self, made):
        own = ["install", "--no-index", "--find-links", str(made.wheels), "own"]
        assert run(made.root / ".venv/bin/python", "-m", "pip", *own).returncode == 0
        assert made.setup().stdout == ""
        made.lock(tiny="2.0")
        assert made.setup().returncode == 0
        assert made.python("import tiny, own; print(tiny.version)") == "2.0"
        made.lock()
        assert made.setup().returncode == 0
        assert made.is_whole()

    def test_installs_the_locked_version_again(self, made):
        other = ["install", "--no-index", "--find-links", str(made.wheels), "tiny==2.0"]
        assert run(made.root / ".venv/bin/python", "-m", "pip", *other).returncode == 0
        assert made.python("import tiny; print(tiny.version)") == "2.0"
        (made.root / ".venv/same environment").touch()
        done = made.setup()
        assert done.returncode == 0
        assert made.is_whole()
        assert (made.root / ".venv/same environment").exists()
        assert made.setup().stdout == ""

    def test_prints_progress_and_not_each_package(self, made):
        made.change_pyproject()
        made.lock(tiny="2.0")
        done = made.setup()
        assert done.stdout.splitlines() == [
            "frostline set-up: installing the packages of requirements.lock",
            "frostline set-up: done",
        ]
        assert "Installed 1 package in" in done.stderr
        assert "tiny" not in done.stderr
        made.lock()
        assert made.setup().returncode == 0

    def test_refuses_what_has_another_hash(self, made):
        made.lock(tiny="2.0", digest="a" * 64)
        done = made.setup()
        assert done.returncode == 1
        assert "Hash mismatch" in done.stderr
        made.lock()
        assert made.setup().returncode == 0

    def test_keeps_the_environment_when_nothing_could_be_fetched(self, made):
        made.lock(tiny="2.0")
        nowhere = {"UV_NO_INDEX": "", "UV_FIND_LINKS": "", "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"}
        done = made.setup(**nowhere, UV_CACHE_DIR=f"{made.wheels}/empty cache", UV_HTTP_RETRIES="0")
        assert done.returncode == 1
        assert "check the network" in done.stderr.splitlines()[-1]
        assert made.is_whole()
        made.lock()
        (made.root / ".venv/same environment").touch()
        assert made.setup().returncode == 0
        assert (made.root / ".venv/same environment").exists()

    def test_keeps_the_environment_when_the_project_could_not_be_built(self, made):
        (made.root / ".venv/same environment").touch()
        made.change_pyproject()
        backend = (made.root / "backend.py").read_text()
        (made.root / "backend.py").write_text("raise SystemExit('no build today')\n")
        done = made.setup()
        assert done.returncode == 1
        assert "no build today" in done.stderr
        (made.root / "backend.py").write_text(backend)
        assert made.setup().returncode == 0
        assert (made.root / ".venv/same environment").exists()
        assert made.is_whole()

    @pytest.mark.parametrize(
        "harm",
        [
            pytest.param("rm .venv/bin/python", marks=pytest.mark.slow),
            "rm .venv/pyvenv.cfg; : >.venv/frostline-setup",
            pytest.param("rm -r .venv/lib/*/site-packages/tiny", marks=pytest.mark.slow),
            pytest.param("mv", marks=pytest.mark.slow),
        ],
        ids=["without its Python", "interrupted", "half deleted", "moved"],
    )
    def test_makes_anew_what_is_not_whole(self, made, harm):
        if harm == "mv":
            made.root = made.root.rename(made.root.with_name("moved"))
        else:
            subprocess.run(["sh", "-c", harm], cwd=made.root, check=True)
        (made.root / ".venv/half made").touch()
        assert made.setup().returncode == 0
        assert made.is_whole()
        assert not (made.root / ".venv/half made").exists()
        assert made.setup().stdout == ""

    def test_two_at_once_wait_for_each_other(self, made):
        made.change_pyproject()
        with (made.root / ".frostline/setup.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            command = [made.root / "scripts/setup"]
            second = subprocess.Popen(command, env=made.variables, stdout=subprocess.PIPE, text=True)
            assert second.stdout
            assert second.stdout.readline() == "frostline set-up: waiting for another set-up of this folder\n"
        second.communicate(timeout=60)
        assert second.returncode == 0

    @pytest.mark.parametrize(
        ("variables", "index"),
        [
            ({}, None),
            ({"PIP_INDEX_URL": "http://127.0.0.1:9/pip"}, "http://127.0.0.1:9/pip"),
            (
                {"PIP_INDEX_URL": "http://127.0.0.1:9/pip", "UV_DEFAULT_INDEX": "http://127.0.0.1:9/uv"},
                "http://127.0.0.1:9/uv",
            ),
        ],
    )
    def test_uv_gets_the_index_of_pip_and_the_certificates_of_the_system(
        self, made, monkeypatch, variables, index
    ):
        made.change_pyproject()
        monkeypatch.delitem(made.variables, "UV_NO_INDEX")
        nothing_of_pips = {"PIP_CONFIG_FILE": "/dev/null", "UV_HTTP_TIMEOUT": "7"}
        assert made.setup(**nothing_of_pips, **variables).returncode == 0
        environment = dict(
            line.split("=", 1) for line in (made.root / ".venv/uv-environment").read_text().splitlines()
        )
        assert environment.get("UV_DEFAULT_INDEX") == index
        assert environment["UV_HTTP_TIMEOUT"] == "7"
        known_to_the_system = bool(ssl.create_default_context().get_ca_certs())
        assert environment.get("UV_SYSTEM_CERTS") == ("true" if known_to_the_system else None)

    def test_leaves_an_environment_that_is_not_its_own(self, project):
        (project / ".venv/bin").mkdir(parents=True)
        done = run(project / "scripts/setup", PATH=f"{Path(sys._base_executable).parent}:/usr/bin:/bin")
        assert done.returncode == 1
        assert f"{project}/.venv was not made by scripts/setup: move it away or delete it" in done.stderr
        assert [path.name for path in (project / ".venv").iterdir()] == ["bin"]

    @pytest.mark.slow
    def test_fills_an_environment_that_is_a_link_to_another_disk(self, tmp_path):
        linked = Project(tmp_path / "project", tmp_path / "wheels")
        (tmp_path / "big disk").mkdir()
        (linked.root / ".venv").symlink_to(tmp_path / "big disk")
        assert linked.setup().returncode == 0
        assert (linked.root / ".venv").is_symlink()
        assert linked.is_whole()
        assert linked.setup().stdout == ""

    @pytest.mark.parametrize("python", ["exit 127", "echo 3.9; exit 1"])
    def test_says_what_to_do_without_a_python_that_fits(self, project, tmp_path, python):
        for name in ("bash", "dirname", "env", "grep", "head"):
            path = shutil.which(name)
            assert path
            (tmp_path / name).symlink_to(path)
        write_command(tmp_path / "python3", python)
        done = run(project / "scripts/setup", PATH=str(tmp_path))
        assert done.returncode == 1
        assert done.stderr == (
            "frostline set-up: no Python 3.11, 3.12 or 3.13 with its venv module was found on PATH:"
            " install one (on Debian: apt-get install python3 python3-venv), then run this again.\n"
        )


class TestWrappers:
    """scripts/test and reproduce: from any folder, in anyone's shell."""

    def test_tests_run_in_the_project_with_a_clean_environment(self, project):
        write_command(project / "scripts/setup", "echo set up")
        write_command(project / ".venv/bin/python", 'pwd; echo "$@"; env')
        done = run(
            project / "scripts/test",
            *["-k", "a b"],
            MLFLOW_TRACKING_URI="http://127.0.0.1:9",
            FROSTLINE_PYTHON="/x",
            GIT_DIR="/x",
            PYTHONPATH="/x",
            CDPATH="/",
        )
        assert done.stdout.splitlines()[:3] == ["set up", str(project), "-m pytest -n 3 -m not slow -k a b"]
        assert "OMP_NUM_THREADS=1" in done.stdout
        assert not re.search("^(MLFLOW|FROSTLINE|GIT_|PYTHONPATH)", done.stdout, re.M)

    def test_all_tests_run_where_that_is_asked_for(self, project):
        write_command(project / "scripts/setup", "true")
        write_command(project / ".venv/bin/python", 'echo "$@"')
        assert run(project / "scripts/test", "--all", "-x").stdout == "-m pytest -n 3 -x\n"

    def test_reproduce_ends_with_the_table_and_where_to_look(self, project):
        subprocess.run(["git", "init", "-q", project], check=True)
        write_command(project / "scripts/setup", "echo set up")
        write_command(project / ".venv/bin/dvc", 'echo "dvc $@"')
        report = project / "artifacts/report/report.md"
        report.parent.mkdir(parents=True)
        report.write_text("# Title\n\ntext\n\n| arm | gain |\n|---|---|\n| full | 3 |\n\nmore\n\n| other |\n")
        done = run(project / "scripts/reproduce", "--force")
        assert done.stdout.splitlines() == [
            *["set up", "dvc repro --force", ""],
            *["| arm | gain |", "|---|---|", "| full | 3 |", ""],
            f"The report:  {project}/artifacts/report/index.html",
            "All runs:    .venv/bin/frostline ui",
        ]

    def test_reproduce_needs_git(self, project):
        write_command(project / "scripts/setup", "true")
        done = run(project / "scripts/reproduce", GIT_CEILING_DIRECTORIES=str(project.parent))
        assert done.returncode == 1
        assert f"run `git init` in {project}" in done.stderr

    def test_a_failed_stage_fails_reproduce(self, project):
        subprocess.run(["git", "init", "-q", project], check=True)
        write_command(project / "scripts/setup", "true")
        write_command(project / ".venv/bin/dvc", "exit 255")
        done = run(project / "scripts/reproduce")
        assert done.returncode == 255
        assert done.stdout == ""


class TestPath:
    """The commands of .venv are found without activating it."""

    @pytest.mark.parametrize("path", ["/usr/bin:/bin", "{bin}:/usr/bin:/bin", "/usr/bin:{bin}:/bin"])
    def test_its_commands_come_first(self, made, path):
        environment = made.root / ".venv/bin"
        show = "import os; print(os.environ['PATH'])"
        done = run(environment / "python", "-c", show, PATH=path.format(bin=environment))
        assert done.stdout.strip() == f"{environment}:/usr/bin:/bin"


LOCK = (ROOT / "requirements.lock").read_text()
ENTRIES = dict(re.findall(r"^([\w.-]+)==(.*(?:(?<=\\)\n.*)*)", LOCK, re.M))


def read_requirements(path: Path) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


WANTED = read_requirements(ROOT / "requirements.in")


class TestLock:
    """requirements.in → requirements.lock, and what pyproject.toml asks of them."""

    def test_names_no_place(self):
        assert "://" not in LOCK
        assert not re.search(r"index-url|find-links|^-|\.whl|@ |(^|\s)/", LOCK, re.M)

    def test_every_package_has_an_exact_version_and_hashes(self):
        assert len(ENTRIES) > 100
        for name, entry in ENTRIES.items():
            assert re.match(r"[\w.+!]+( |$)", entry), name
            assert "--hash=sha256:" in entry, name

    def test_leaves_windows_out(self):
        assert "win32" not in LOCK

    def test_has_all_that_is_asked_for(self):
        for name, requirement in WANTED.items():
            assert ENTRIES[name].split()[0] in requirement.specifier, name

    def test_pyproject_asks_for_nothing_else(self):
        pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
        for text in pyproject["project"]["dependencies"] + pyproject["build-system"]["requires"]:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            assert name in WANTED, f"{name} is not in requirements.in"
            assert ENTRIES[name].split()[0] in requirement.specifier, name
            assert any(bound.operator == ">=" for bound in requirement.specifier), (
                f"{name} has no lower bound"
            )

    def test_lock_compiles_without_the_callers_settings(self, project):
        write_command(project / ".venv/bin/uv", 'echo "$@" > called; env >> called')
        write_command(project / ".venv/bin/python", f'exec "{sys.executable}" "$@"')
        done = run(project / "scripts/lock", "--upgrade", UV_INDEX_URL="http://127.0.0.1:9", UV_OFFLINE="1")
        assert done.returncode == 0
        called = (project / "called").read_text()
        assert called.startswith("pip compile --quiet --universal --python-version 3.11 ")
        assert "--upgrade requirements.in\n" in called
        known_to_the_system = bool(ssl.create_default_context().get_ca_certs())
        assert re.findall(r"UV_\w+=.*", called) == ["UV_SYSTEM_CERTS=true"] * known_to_the_system


def test_every_script_parses():
    for name in ("lock", "reproduce", "setup", "test"):
        subprocess.run(["bash", "-n", ROOT / "scripts" / name], check=True)
    subprocess.run(["sh", "-n", ROOT / "scripts/stage"], check=True)
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)


def test_scripts_can_be_executed():
    for path in (*(ROOT / "scripts" / name for name in SCRIPTS), ROOT / ".ci/run"):
        assert os.access(path, os.X_OK), path
