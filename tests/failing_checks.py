"""Stands in for `benchmarks.gpu_checks`: checks that pass, fail, hang and end their process."""

import json
import os
import subprocess
import sys
import time


def say(name: str, passed: bool, result: str, usable: bool = True) -> None:
    row = {"check": name, "passed": passed, "result": result, "figures": {}, "usable": usable}
    print(json.dumps(row), flush=True)


for name in json.loads(sys.argv[1])["names"]:
    print(f"a line of {name}'s own", flush=True)
    match name:
        case "hangs":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            time.sleep(600)
        case "dies":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(7)
        case "fails":
            say(name, False, "AssertionError: 1 is not 2")
        case "breaks the device":
            say(name, False, "RuntimeError: CUDA error: an illegal memory access", usable=False)
            break
        case _:
            say(name, True, f"process {os.getpid()}")
