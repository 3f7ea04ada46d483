"""Whole lives of runs in this process, under an audit hook that notes what Python does: audited_life.py FOLDER LIVES

One life more goes first, so that all modules are loaded. FOLDER/noted.json tells the exit codes and what was noted.
"""

import json
import os
import pickle
import shutil
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

from tiny_runs import ROOT, TINY, write_tsv

from pytorch_dl.entry import execute

VARIANTS = [
    ["logging.tensorboard=true", "training.eval_decode=5"],
    ["data.tokenizer_name=bpe", "data.layout=padded", "training.ema_decay=0.9"],
    ["data.tokenizer_name=unigram", "data.shared_vocabulary=false", "model.tie_embeddings=none"],
    ["data.tokenizer_name=byte", "optimizer.name=sgd", "model.positions=learned", "model.norm_type=layernorm"],
    ["training.eval_decode=5", "training.average_checkpoints=2", "data.num_workers=2"],
]
FORBIDDEN = (
    *("pickle.find_class", "marshal.load", "ctypes.dlopen", "os.system", "os.exec", "os.spawn", "os.posix_spawn"),
    *("os.fork", "os.forkpty", "pty.spawn", "subprocess.Popen", "webbrowser.open", "urllib.Request"),
    *("http.client.connect", "http.client.send", "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"),
    *("socket.getaddrinfo", "socket.gethostbyname", "smtplib.connect", "ftplib.connect"),
)
INSTALLED = tuple({*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), str(ROOT), sys.prefix})


class Notes:
    """What the hook notes while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.events: Counter[str] = Counter()
        self.forbidden: list[str] = []
        self.code: Counter[str] = Counter()
        self.imported: set[str] = set()
        sys.addaudithook(self.note)

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        self.events[event] += 1
        if event in FORBIDDEN and (event, arguments) != ("ctypes.dlopen", (None,)):  # itself
            self.forbidden.append(f"{event} {arguments!r:.200}")
        elif event == "exec":
            self.code[f"exec {arguments[0].co_filename}"] += 1
        elif event == "compile":
            self.code[f"compile {arguments[1]}"] += 1
        elif event == "import":
            self.imported.add(arguments[0])

    def foreign(self) -> list[str]:
        """Code and modules from elsewhere than what is installed."""
        places = {name: name.partition(" ")[2] for name in self.code}
        for name in self.imported & sys.modules.keys():
            places[f"import {name}"] = str(getattr(sys.modules[name].__spec__, "origin", None) or "built-in")
        built_in = ("built-in", "frozen", "<frozen")
        return sorted(name for name, place in places.items() if not place.startswith((*INSTALLED, *built_in)))


def live(folder: Path, settings: list[str]) -> list[int]:
    """Train, stop, resume, translate, evaluate, verify, replay and export; the exit codes."""
    text, run = write_tsv(folder / "text.tsv"), folder / "run"
    given = {word.partition("=")[0] for word in settings}
    words = [*(word for word in TINY if word.partition("=")[0] not in given), *settings]
    codes = [_call("run", "--src", text, "--split", "12", "--out", run, "--beam", "2", *words)]
    for path in (run / "model", run / "checkpoints/step-00000020"):  # as if it had been stopped after step 10
        shutil.rmtree(path)
    (run / "report.json").unlink()
    (folder / "lines.txt").write_text("ab cd\nef gh ij\n")
    codes += [
        _call("resume", run),
        _call("translate", run, folder / "lines.txt", "--out", folder / "out.txt"),
        _call("translate", run, folder / "lines.txt", "--json"),
        _call("evaluate", run, "--src", text),
        _call("verify", run),
        _call("replay", run),
        _call("export", run, "--to", "safetensors", "--out", folder / "safetensors"),
        _call("translate", folder / "safetensors", "--text", "ab"),
    ]
    return codes


def _call(*words: object) -> int:
    return execute([str(word) for word in words])


def main(folder: Path, lives: int) -> None:
    notes = Notes()
    codes = [live(folder / "warm", VARIANTS[0])]
    for number in range(lives):
        if number:
            live(folder / f"warm{number}", VARIANTS[number])
        notes.on = True
        codes.append(live(folder / f"life{number}", VARIANTS[number]))
        notes.on = False
    lived = {"codes": codes, "events": notes.events, "forbidden": [*notes.forbidden], "foreign": notes.foreign()}
    notes.on = True  # it does note what it is to note
    pickle.loads(pickle.dumps(os.path.join))
    exec("None")
    notes.on = False
    trial = [*notes.forbidden[len(lived["forbidden"]) :], *notes.foreign()]
    (folder / "noted.json").write_text(json.dumps({**lived, "trial": trial}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
