"""A backend by the operator's command templates: a vendor's compiler and runtime, asked by commands.

What `serve` starts belongs to no service: it lives on when the binder is killed, and is found again by its name. Of
each served name there is a folder with the intent (written before anything is started), the process that was started,
its output, and whether it was ever ready. A runtime elsewhere (`serve_mode: request`) is read back by its health
command alone. Exit codes of that command: 0 ready, 3 not there, anything else not ready.
"""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from berth import catalogue
from berth.backends import launcher, vendor_processes
from berth.backends.base import Health, Placement, Prepared, Refused, Serving, Unanswered, Verdict
from berth.backends.declaration import BackendDeclaration, fill
from berth.backends.served_folder import Intent, afresh, intent_of, started_of, told_of, write
from berth.backends.vendor_processes import Ran, last_lines
from berth.catalogue import Accelerator
from berth.embedded.process import free_port
from berth.models.artefact import Artefact
from berth.models.support import fits

__all__ = ["CommandBackend"]

READY, ABSENT = 0, 3
HEALTH_TRIES = 3
KEPT = 8
# What a job that says nothing has all the same; a backend that declares such a parameter gets it.
UNSAID = {"max_batch_size": "0", "instances": "1"}
BERTHS_OWN = "berth_"


class CommandBackend:
    """`state`: a folder of its own, kept over restarts. `grace_seconds`: from SIGTERM to SIGKILL."""

    def __init__(self, declaration: BackendDeclaration, state: Path, *, grace_seconds: float = 10.0) -> None:
        self.declaration = declaration
        self._state = state.resolve() / declaration.name
        self._grace_seconds = grace_seconds
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._checked: dict[tuple[str, str], tuple[str, ...]] = {}

    @property
    def name(self) -> str:
        return self.declaration.name

    @property
    def stacks(self) -> Sequence[str]:
        named = [known.stack for one in self.declaration.accelerators if (known := catalogue.by_name(one))]
        return tuple(dict.fromkeys((*self.declaration.stacks, *named)))

    def unavailable(self) -> str | None:
        """None where the programs are on this machine, otherwise one line that names those that are not."""
        programs = dict.fromkeys(argv[0] for argv in self.declaration.commands.values())
        missing = [program for program in programs if shutil.which(program, path=self._path()) is None]
        return f"not on this machine: {', '.join(missing)}" if missing else None

    def can_run(self, artefact: Artefact, accelerator: Accelerator) -> Verdict:
        """Asks the check command, where there is one, once for an artefact and accelerator; that blocks."""
        declared = self.declaration
        reasons = []
        if not self._serves(accelerator):
            served = ", ".join((*declared.accelerators, *declared.stacks))
            reasons.append(f"accelerator: {accelerator.name!r}: backend {self.name} serves {served}")
        if artefact.format not in declared.formats:
            taken = ", ".join(declared.formats)
            reasons.append(f"format: {artefact.format!r}: backend {self.name} takes {taken}: export the model as that")
        if declared.most_bytes is not None and artefact.content_bytes > declared.most_bytes:
            reasons.append(
                f"content_bytes: '{artefact.content_bytes}': backend {self.name} takes at most {declared.most_bytes}"
            )
        if too_large := fits(artefact, accelerator):
            reasons.append(too_large)
        return Verdict(tuple(reasons) or self._check(artefact, accelerator))

    def _serves(self, accelerator: Accelerator) -> bool:
        return accelerator.name in self.declaration.accelerators or accelerator.stack in self.declaration.stacks

    async def prepare(self, artefact: Artefact, content: Path, placement: Placement) -> Prepared:
        """Compiles once for each artefact, command and parameters: what was compiled is kept and used again."""
        values = self._values(placement) | {"digest": artefact.digest, "format": artefact.format}
        names = {"artefact": "{artefact}", "folder": "{folder}"}
        key = [
            self.name,
            artefact.digest,
            self._argv("prepare", placement, values | names),
            self._environment(placement),
        ]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        folder = self._state / "prepared" / digest
        copy, output = folder / "artefact" / content.name, folder / "output"
        async with self._lock(digest):
            if not (folder / "ready").exists():
                await self._end(folder)
                await asyncio.to_thread(afresh, folder, content, copy, output)
                try:
                    await self._compile(folder, values | {"artefact": str(copy), "folder": str(output)}, placement)
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
                write(folder / "ready", "")
            os.utime(folder)
        await asyncio.to_thread(self._prune, digest)
        told = {"artefact": str(copy), "folder": str(output), "digest": artefact.digest, "format": artefact.format}
        return Prepared(self.name, digest, configuration=told)

    async def serve(self, name: str, prepared: Prepared, placement: Placement) -> Serving:
        folder = self._folder(name, placement)
        async with self._lock(folder.name):
            await self._begin(name, folder, prepared, placement)
        deadline = asyncio.get_running_loop().time() + self.declaration.timeouts["serve"]
        pause, word = 0.05, ""
        while True:
            try:
                serving = await self.look(name, placement)
            except Unanswered as error:
                serving = Serving(Health.LOADING, message=str(error))
            word = serving.message or word
            if serving.health is Health.READY:
                return serving
            if serving.health is Health.ABSENT:
                raise Refused(f"{self.name}: {name!r} was ended while it started")
            late = asyncio.get_running_loop().time() >= deadline
            if late or serving.health is Health.FAILED:
                if late:
                    word = f"was not ready within {self.declaration.timeouts['serve']:g} s: {word}"
                    word += f"\n{last_lines(folder / 'log')}"
                # Refused promises that nothing is held.
                await self.release(name, placement)
                raise Refused(f"{self.name}: {name!r}: {word.strip()}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 2.0)

    async def look(self, name: str, placement: Placement) -> Serving:
        folder = self._folder(name, placement)
        intent = intent_of(folder)
        if self._is_process:
            if not self._lives(folder):
                if not (folder / "started").exists():
                    return Serving(Health.ABSENT)
                return Serving(Health.FAILED, message=self._how_it_ended(folder))
            if intent is None:
                raise Unanswered(f"{self.name}: {name!r} runs, but {folder}/intent.json cannot be read: release it")
        endpoint = self._fill(self.declaration.endpoint, placement, self._served(name, placement, intent))
        for attempt in range(HEALTH_TRIES):
            asked = await self._ask("health", name, placement, folder)
            if asked.code is None:
                raise Unanswered(f"{self.name}: health of {name!r}: {asked}")
            if asked.code == READY:
                if intent is not None and not (folder / "ready").exists():
                    write(folder / "ready", "")
                return Serving(Health.READY, endpoint)
            if asked.code == ABSENT and not self._is_process:
                return Serving(Health.ABSENT)
            if self._is_process and not self._lives(folder):
                return Serving(Health.FAILED, message=self._how_it_ended(folder))
            if not (folder / "ready").exists():
                return Serving(Health.LOADING, endpoint, f"health: {asked}")
            if attempt + 1 < HEALTH_TRIES:
                # One refused look is no end of a model that serves.
                await asyncio.sleep(0.3)
        return Serving(Health.FAILED, message=f"health: {asked}")

    async def release(self, name: str, placement: Placement) -> None:
        folder = self._folder(name, placement)
        async with self._lock(folder.name):
            if self._is_process:
                if "release" in self.declaration.commands and self._lives(folder) and intent_of(folder) is not None:
                    with suppress(Unanswered):
                        await self._ask("release", name, placement, folder)
            else:
                await self._ask_until_absent(name, placement, folder)
            await self._end(folder)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    # Serving

    @property
    def _is_process(self) -> bool:
        return self.declaration.serve_mode == "process"

    async def _begin(self, name: str, folder: Path, prepared: Prepared, placement: Placement) -> None:
        """Intent, then effect. What is served already under that name, of the same digest, stays as it is."""
        held = intent_of(folder)
        there = self._lives(folder) if self._is_process else await self._is_there(name, placement, folder)
        if there and held is not None:
            if held.digest == prepared.digest:
                return
            raise Refused(f"{self.name}: {name!r}: serves another model already: release it first")
        if self._is_process:
            await self._end(folder)
        elif there:
            # It serves, and nobody knows what.
            await self._ask_until_absent(name, placement, folder)
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "work").mkdir(parents=True, mode=0o700)
        intent = Intent(prepared.digest, free_port() if self._is_process else 0)
        told = {key: str(value) for key, value in prepared.configuration.items()}
        values = self._served(name, placement, intent) | told
        argv = self._argv("serve", placement, values)
        environment = self._environment(placement)
        written = {
            "digest": intent.digest,
            "port": intent.port,
            "values": told,
            "argv": argv,
            "environment": vendor_processes.surroundings(folder, environment),
        }
        write(folder / "intent.json", json.dumps(written))
        if self._is_process:
            vendor_processes.spawn(folder, environment)
            return
        ran = await self._run("serve", argv, folder, folder / "log", environment)
        if ran.code is None:
            raise Unanswered(f"{self.name}: serve of {name!r}: {ran}")
        if ran.code != 0:
            await self._ask_until_absent(name, placement, folder)
            shutil.rmtree(folder, ignore_errors=True)
            raise Refused(f"{self.name}: serve of {name!r}: {ran}")

    def _lives(self, folder: Path) -> bool:
        leader = started_of(folder)
        if leader is not None and launcher.start_time(leader[0]) == leader[1]:
            return True
        return bool(vendor_processes.marked(folder))

    def _how_it_ended(self, folder: Path) -> str:
        leader = started_of(folder)
        code = vendor_processes.reap(leader[0]) if leader is not None else None
        if code is not None:
            write(folder / "exit", str(code))
        elif (folder / "exit").exists():
            code = int((folder / "exit").read_text())
        ended = "its process ended" if code is None else f"its process ended with {code}"
        return f"{ended}:\n{last_lines(folder / 'log')}"

    async def _end(self, folder: Path) -> None:
        if not await vendor_processes.end(folder, started_of(folder), grace_seconds=self._grace_seconds):
            raise Unanswered(
                f"{self.name}: processes of {folder} do not end: {sorted(vendor_processes.marked(folder))}"
            )

    async def _is_there(self, name: str, placement: Placement, folder: Path) -> bool:
        asked = await self._ask("health", name, placement, folder)
        if asked.code is None:
            raise Unanswered(f"{self.name}: health of {name!r}: {asked}")
        return asked.code != ABSENT

    async def _ask_until_absent(self, name: str, placement: Placement, folder: Path) -> None:
        if not await self._is_there(name, placement, folder):
            return
        asked = await self._ask("release", name, placement, folder)
        deadline = asyncio.get_running_loop().time() + self.declaration.timeouts["release"]
        while await self._is_there(name, placement, folder):
            if asyncio.get_running_loop().time() >= deadline:
                raise Unanswered(f"{self.name}: {name!r} is there still after release: {asked}")
            await asyncio.sleep(0.2)

    # Commands

    async def _ask(self, command: str, name: str, placement: Placement, folder: Path) -> Ran:
        """Runs health or release for a served name."""
        argv = self._argv(command, placement, self._served(name, placement, intent_of(folder)) | told_of(folder))
        with tempfile.TemporaryDirectory(prefix="berth-") as scratch:
            # Not under the served folder's own mark: the command is none of the model's processes.
            return await self._run(command, argv, Path(scratch), Path(scratch, "output"), self._environment(placement))

    async def _run(
        self, command: str, argv: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]
    ) -> Ran:
        try:
            return await vendor_processes.run(
                argv,
                folder=folder,
                environment=environment,
                log=log,
                timeout_seconds=self.declaration.timeouts[command],
            )
        except OSError as error:
            # Nobody answered: that is not the vendor's no.
            said = (
                f"{self.name}: {command}: cannot run {argv[0]!r}: {error.strerror or error}: install it, or mend PATH"
            )
            raise (Refused if command == "prepare" else Unanswered)(said) from None

    async def _compile(self, folder: Path, values: Mapping[str, str], placement: Placement) -> None:
        argv = self._argv("prepare", placement, values)
        if not argv:
            return
        ran = await self._run("prepare", argv, folder, folder / "log", self._environment(placement))
        await self._end(folder)
        if ran.code != 0:
            raise Refused(f"{self.name}: prepare: {ran}")

    def _check(self, artefact: Artefact, accelerator: Accelerator) -> tuple[str, ...]:
        if "check" not in self.declaration.commands:
            return ()
        known = self._checked.get((artefact.digest, accelerator.name))
        if known is not None:
            return known
        placement = Placement("", accelerator.name)
        values = {
            "accelerator": accelerator.name,
            "format": artefact.format,
            "digest": artefact.digest,
            "bytes": str(artefact.content_bytes),
        }
        argv = self._argv("check", placement, values)
        with tempfile.TemporaryDirectory(prefix="berth-") as scratch:
            environment = vendor_processes.surroundings(Path(scratch), self._environment(placement))
            try:
                done = subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    cwd=scratch,
                    env=environment,
                    timeout=self.declaration.timeouts["check"],
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return (f"check: {argv[0]!r}: backend {self.name} could not be asked: {error}",)
        said = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines()[-3:]
        word = " ".join(said) or f"exit code {done.returncode}"
        reasons = () if done.returncode == 0 else (f"check: backend {self.name} refuses it: {word}",)
        self._checked[artefact.digest, accelerator.name] = reasons
        return reasons

    def _argv(self, command: str, placement: Placement, values: Mapping[str, str]) -> list[str]:
        argv = []
        for template in self.declaration.commands.get(command, ()):
            argument = self._fill(template, placement, values)
            if argument.startswith("-") and not template.startswith("-"):
                raise Refused(f"{self.name}: {command}: {argument!r}: a value must not begin with a dash")
            argv.append(argument)
        return argv

    def _fill(self, template: str, placement: Placement, values: Mapping[str, str]) -> str:
        declared = self.declaration.parameters
        for name, value in placement.parameters.items():
            if name not in declared and UNSAID.get(name) != value and not name.startswith(BERTHS_OWN):
                takes = ", ".join(declared) or "none"
                raise Refused(f"{name}: {value!r}: backend {self.name} takes as parameters {takes}: leave it out")
        filled = fill(template, values, {**declared, **placement.parameters})
        if "\0" in filled:
            raise Refused(f"{self.name}: {filled!r}: a value must not hold a NUL character")
        return filled

    def _environment(self, placement: Placement) -> dict[str, str]:
        values = self._values(placement)
        return {name: self._fill(text, placement, values) for name, text in self.declaration.environment.items()}

    def _values(self, placement: Placement) -> dict[str, str]:
        return {
            "accelerator": placement.accelerator,
            "node": placement.node,
            "indices": ",".join(map(str, placement.indices)),
            "address": placement.address,
        }

    def _served(self, name: str, placement: Placement, intent: Intent | None) -> dict[str, str]:
        return self._values(placement) | {"name": name, "port": str(intent.port if intent is not None else 0)}

    def _path(self) -> str | None:
        return self.declaration.environment.get("PATH") or os.environ.get("PATH")

    # Folders

    def _folder(self, name: str, placement: Placement) -> Path:
        place = quote(f"{placement.node}", safe="")
        return self._state / "served" / f"{quote(name, safe='').replace('.', '%2E')}@{place.replace('.', '%2E')}"

    def _lock(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    def _prune(self, used: str) -> None:
        """Removes compiled models that nobody serves, but for the last ones."""
        serving = {intent.digest for folder in self._state.glob("served/*") if (intent := intent_of(folder))}
        folders = [one for one in self._state.glob("prepared/*") if (one / "ready").exists()]
        folders.sort(key=lambda one: one.stat().st_mtime, reverse=True)
        for folder in folders[KEPT:]:
            if folder.name not in serving and folder.name != used:
                shutil.rmtree(folder, ignore_errors=True)
