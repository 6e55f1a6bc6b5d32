#!/usr/bin/env python3
"""From a fresh clone to a running Todoke, with Python alone.

    python3 dev.py demo [--data FILE] [--out DIR] [--once] [--port P]   one real job, seen in three ways
    python3 dev.py test [--full] [any pytest argument]                  the tests; --cov counts what they cover
    python3 dev.py lock                                                 renew constraints.txt

Makes .venv beside this file and installs what constraints.txt pins; later runs skip that until it changes.
Standard library only, and no syntax that an old Python would stumble over before it can be told so.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, ".todoke-installed.json")
LOG = os.path.join(VENV, "install.log")
OLDEST = (3, 11)
LOCK_HEADER = """\
# Every package of the run-time, embedded and dev sets, pinned. Written by `python3 dev.py lock`, which installs
# `.[embedded,dev]` as pyproject.toml allows into a fresh environment and notes what came; not edited by hand.
# boto3 stays at the version ministack pins.
"""


class Trouble(Exception):
    """Something the person at the terminal can act on; `str()` says how."""


def main(arguments):
    """Run one command; returns an exit code, or becomes the program it prepared."""
    started_at = time.time()
    commands = {"demo": demo, "test": test, "lock": lock}
    if not arguments or arguments[0] not in commands:
        print(__doc__)
        return 0 if arguments and arguments[0] in ("-h", "--help", "help") else 2
    try:
        check_python()
        return commands[arguments[0]](arguments[1:], started_at)
    except Trouble as trouble:
        print(f"dev.py: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndev.py: interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def demo(arguments, started_at):
    """Become `todoke demo`, which is told when we began."""
    install(["embedded"])
    become("todoke", ["demo", "--started-at", f"{started_at:.3f}", *arguments])


def test(arguments, _started_at):
    """Become pytest: the short tier, or with --full all of it."""
    install(["embedded", "dev"])
    full = "--full" in arguments
    chosen = [argument for argument in arguments if argument != "--full"]
    options = ["--full"] if full else ["-m", "not full"]
    if not any(argument.startswith(("-n", "--numprocesses", "--pdb", "--version")) for argument in chosen):
        # They wait more than they compute; worksteal, so that no long file is left to one of them.
        options += ["-n", "4", "--dist", "worksteal"]
    if not any(argument.startswith(("--randomly-seed", "--hypothesis-seed")) for argument in chosen):
        seed = random.SystemRandom().randrange(2**32)
        options += [f"--randomly-seed={seed}", f"--hypothesis-seed={seed}"]
        print(f"seeds: --randomly-seed={seed} --hypothesis-seed={seed}", flush=True)
    os.chdir(ROOT)
    become("python", ["-m", "pytest", *options, *chosen])


def lock(_arguments, _started_at):
    """Write constraints.txt anew from what a fresh environment resolves to."""
    with tempfile.TemporaryDirectory() as folder:
        python = make_venv(os.path.join(folder, "venv"))
        run_quietly(
            "Resolving",
            [python, "-m", "pip", "install", "-e", f"{ROOT}[embedded,dev]"],
            os.path.join(folder, "log"),
        )
        frozen = subprocess.run(
            [python, "-m", "pip", "freeze", "--exclude-editable"], stdout=subprocess.PIPE, check=True
        ).stdout.decode()
    lines = sorted(frozen.split("\n"), key=str.lower)
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    strange = [pin for pin in pins if "==" not in pin or "@" in pin or "/" in pin]
    if strange:
        raise Trouble(f"these do not come from a package index, constraints.txt is unchanged: {strange}")
    path = os.path.join(ROOT, "constraints.txt")
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(LOCK_HEADER + "\n".join(pins) + "\n")
    os.replace(path + ".new", path)
    print(f"constraints.txt: {len(pins)} packages")
    return 0


def install(extras):
    """Make .venv hold the pinned packages of these extras, unless it does. One dev.py at a time."""
    with one_at_a_time():
        state = wanted_state(extras)
        if is_installed(state):
            return
        if os.path.exists(STAMP):
            if read_stamp().get("root") != ROOT or not runs(venv_program("python")):
                shutil.rmtree(VENV)  # moved or its Python is gone: scripts in it point to nowhere
            else:
                os.remove(STAMP)
        elif os.path.isdir(VENV) and not runs(venv_program("python")):
            shutil.rmtree(VENV)
        what = f"{ROOT}[{','.join(extras)}]"
        arguments = ["install", "-e", what, "-c", os.path.join(ROOT, "constraints.txt")]
        if not install_with_uv(arguments):
            install_with_pip(arguments)
        # Last, so that an interrupted installation is repeated.
        with open(STAMP + ".new", "w", encoding="utf-8") as file:
            json.dump(state, file)
        os.replace(STAMP + ".new", STAMP)


def install_with_uv(arguments):
    """Use uv where there is one. Returns False when pip must do it."""
    uv = shutil.which("uv")
    if uv is None:
        return False
    try:
        python = venv_program("python")
        if not runs(python):
            run_quietly("Making .venv", [uv, "venv", "--seed", "--python", sys.executable, VENV], None)
        run_quietly("Installing with uv", [uv, "pip", *arguments, "--python", python], LOG)
    except Trouble as trouble:
        print(f"{trouble}\nuv did not manage; trying pip", file=sys.stderr)
        return False
    return True


def install_with_pip(arguments):
    """Use the pip of .venv, made first if need be."""
    python = venv_program("python")
    if not runs(python) or subprocess.call([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL):
        shutil.rmtree(VENV, ignore_errors=True)
        make_venv(VENV)
    first = "" if os.path.exists(STAMP) else " (the first time takes about half a minute)"
    run_quietly(f"Installing{first}", [python, "-m", "pip", "--disable-pip-version-check", *arguments], LOG)


def make_venv(folder):
    """A fresh environment with pip; returns its python."""
    try:
        import ensurepip  # noqa: F401, PLC0415 - Debian ships Python without it
        import venv  # noqa: PLC0415
    except ImportError:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise Trouble(
            "this Python cannot make virtual environments. On Debian and Ubuntu:\n"
            f"    apt install python{version}-venv\nthen run the same command again"
        ) from None
    try:
        venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Trouble(f"{folder} cannot be made: {error}") from None
    return os.path.join(folder, "bin", "python")


def wanted_state(extras):
    """What the stamp says once everything is in place."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return {"root": ROOT, "files": digest.hexdigest(), "extras": sorted(extras)}


def is_installed(wanted):
    """Whether .venv holds at least what is wanted."""
    found = read_stamp()
    same = all(found.get(key) == wanted[key] for key in ("root", "files"))
    return same and set(wanted["extras"]) <= set(found["extras"]) and runs(venv_program("python"))


def read_stamp():
    """The stamp, empty when there is none or it is damaged."""
    try:
        with open(STAMP, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


class one_at_a_time:  # noqa: N801 - reads as a phrase in `with`
    """Hold the repository's folder, so that two dev.py do not install at once; no file is left behind."""

    def __enter__(self):
        import fcntl  # noqa: PLC0415 - absent on Windows, which check_python has refused by now

        self.folder = os.open(ROOT, os.O_RDONLY)
        try:
            fcntl.flock(self.folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another dev.py that installs", flush=True)
            fcntl.flock(self.folder, fcntl.LOCK_EX)

    def __exit__(self, *_):
        os.close(self.folder)


def run_quietly(title, command, log):
    """Run to the end with a clock instead of output; what it said is shown when it fails."""
    began = time.monotonic()
    clock = sys.stderr.isatty()
    print(f"{title} …", end="" if clock else "\n", file=sys.stderr, flush=True)
    with open(log, "w+b") if log else tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    status = process.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    if clock:
                        print(f"\r{title} … {time.monotonic() - began:.0f} s", end="", file=sys.stderr, flush=True)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        seconds = time.monotonic() - began
        print(f"{chr(13) if clock else ''}{title} … {seconds:.1f} s", file=sys.stderr, flush=True)
        if status:
            output.seek(0)
            said = output.read().decode(errors="replace").strip().split("\n")
            raise Trouble(
                "that failed:\n    "
                + "\n    ".join(said[-15:])
                + "\nIs the network there? The same command goes on where it stopped"
                + (f"; all of the output: {log}" if log else "")
            )


def check_python():
    """Raises Trouble when this Python or system will not do."""
    if sys.version_info < OLDEST:
        found = ".".join(str(part) for part in sys.version_info[:3])
        raise Trouble(
            f"Todoke needs Python {OLDEST[0]}.{OLDEST[1]} or newer, and this is {found} ({sys.executable}).\n"
            "If a newer one is installed, name it: python3.12 dev.py ..."
        )
    if os.name != "posix":
        raise Trouble("this needs Linux or macOS; on Windows run it inside WSL")


def venv_program(name):
    """Path of a program in .venv."""
    return os.path.join(VENV, "bin", name)


def runs(python):
    """Whether this Python starts, which it does not after its base was removed."""
    try:
        return subprocess.call([python, "-c", ""], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def become(program, arguments):
    """Replace this process, so that signals reach the program itself."""
    sys.stdout.flush()
    path = venv_program(program)
    os.execv(path, [path, *arguments])  # noqa: S606 - as above


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
