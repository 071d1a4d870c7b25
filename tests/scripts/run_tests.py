"""Runs every test binary of the workspace, several at a time.

Called by scripts/test.sh. `cargo test` runs one binary after the other, and at the end of each most cores wait for its slowest test. Here the next one runs
meanwhile. What is run is what cargo says it has built, so no binary can be forgotten. The output of each is shown in one piece when it has ended, as cargo
would show it; the documentation's tests run at the end.

    run_tests.py [--jobs N]     N binaries at a time; as many as there are cores without it

Ends 0 only when every binary did.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SELECTION = ["--locked", "--workspace", "--all-features"]
# Many times what the longest takes on two busy cores. One that waits for ever is to be named, not to use up the time of the whole run.
LIMIT_SECONDS = 40 * 60
# The longest first, so that none of them is left over at the end. Only the order hangs on this list.
LONGEST = ["crashes", "simulation", "post", "scenarios", "e2e", "wire", "stale", "relay", "audit", "cli"]


def built():
    """(name, executable, folder of its package) of each test binary, the longest first. Compiles what is not up to date."""
    command = ["cargo", "test", *SELECTION, "--no-run", "--message-format=json-render-diagnostics"]
    build = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if build.returncode != 0:
        sys.exit(build.returncode)
    binaries = []
    for line in build.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            binaries.append((message["target"]["name"], message["executable"], pathlib.Path(message["manifest_path"]).parent))
    if not binaries:
        sys.exit("cargo has built no test binary")
    return sorted(binaries, key=lambda binary: LONGEST.index(binary[0]) if binary[0] in LONGEST else len(LONGEST))


def run(binary):
    name, executable, folder = binary
    began = time.monotonic()
    # A file and no pipe: what a test leaves running must not hold up the end.
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        environment = {**os.environ, "CARGO_MANIFEST_DIR": str(folder)}
        process = subprocess.Popen([executable], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        limit = threading.Timer(LIMIT_SECONDS, process.kill)
        limit.start()
        _, status, used = os.wait4(process.pid, 0)
        limit.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        seconds = f"{time.monotonic() - began:.0f} s ({used.ru_utime + used.ru_stime:.0f} s of a core)"
        return name, process.returncode, output.read(), seconds


def ending(status):
    """How a binary that failed ended."""
    if status == -signal.SIGKILL:
        return f"was killed, as every binary is that runs for more than {LIMIT_SECONDS // 60} minutes"
    return f"ended with {status}"


def main():
    arguments = argparse.ArgumentParser(description="Runs every test binary of the workspace, several at a time.")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    jobs = arguments.parse_args().jobs
    failed = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run, binary) for binary in built()]):
            name, status, output, seconds = future.result()
            print(f"     Ran {name} in {seconds}\n{output}", flush=True)
            if status != 0:
                failed.append(name)
                print(f"{name} {ending(status)}", flush=True)
    documentation = subprocess.run(["cargo", "test", *SELECTION, "--doc"], cwd=ROOT, check=False)
    if documentation.returncode != 0:
        failed.append("the documentation's tests")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


main()
