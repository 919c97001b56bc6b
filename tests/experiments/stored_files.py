"""Every file that the suite reads back, what can become of it, and what has to happen then."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mupkit
from experiments import files
from experiments.analysis import verdicts
from experiments.cli import workflow
from experiments.data import places, pretraining, wikipedia
from experiments.data.images import load_images
from experiments.data.text import load_corpus
from experiments.data.translation import load_translation
from experiments.declare import registry, tuned
from experiments.families.transformer_wikitext2.config import TransformerConfig
from experiments.products import tidy_tables
from experiments.products.paper_scale import steps as paper_steps
from experiments.products.tidying import write_tables
from experiments.runs import planning, training
from experiments.runs.progress import Progress
from experiments.runs.store import Store
from experiments.train import checkpoint, process
from tests.data_series import write_split
from tests.experiments.runs.test_store import PROVENANCE, record

FIG1 = registry.product("fig1")


def healthy(results: Path) -> Store:
    """A store of two runs that fig1 needs at the scale smoke, with the tables of both."""
    runs = FIG1.runs("smoke", "wikitext2")[:2]
    records = [
        dataclasses.replace(record(), id=run.id, config=run.model_dump(), provenance=PROVENANCE)
        for run in runs
    ]
    store = Store(results)
    for one in records:
        store.write(one)
    write_tables(results / "fig1", records)
    tidy_tables.write_made(FIG1, "smoke", results / "fig1")
    (results / "fig1" / "claims.json").write_text("[]")
    return store


# Damages


def _replace(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def _write(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


CONTENTS: dict[str, Callable[[Path], Any]] = {
    "empty": _write(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "random bytes": _write(bytes(range(128, 256)) * 4),
    "another JSON": _write(b"[1]"),
    "null": _write(b"null"),
    "nested deeply": _write(b"[" * 100_000),
}
PLACES: dict[str, Callable[[Path], Any]] = {
    "a folder": _replace(Path.mkdir),
    "a pipe": _replace(os.mkfifo),
    "a dangling link": _replace(lambda path: path.symlink_to(path.with_name("nowhere"))),
}
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "absent": Path.unlink,
    **CONTENTS,
    **PLACES,
    "unreadable": lambda path: path.chmod(0),
}
FLIPPED = "a flipped bit"  # which a digest tells


def _flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


# Files


@dataclasses.dataclass
class Stored:
    """Files of one kind, which are there and whole, and how the suite reads them back.

    Attributes:
        paths: of the files.
        read: what the suite does; an error of the user is what it says of a damaged file.
        after: what `read` gives if a file is damaged and that is no error; None: as before.
    """

    paths: list[Path]
    read: Callable[[], object]
    after: tuple[object, ...] | None = None


@dataclasses.dataclass
class Kind:
    """A kind of files.

    Attributes:
        make: the files, from the results folder (a healthy one) and pytest's monkeypatch.
        readers: the modules of ours that open them.
        reaction: to a damage: "made again", with a line; "named", with the mend; "no matter".
        but: damages with another reaction.
        contents: whether what is in the file is looked at; for locks it is not.
        digest: whether something has its digest.
        doctor: whether it is the doctor's to look at.
        also: further contents that are damage.
    """

    make: Callable[[Path, Any], Stored]
    readers: tuple[str, ...]
    reaction: str
    but: dict[str, str] = dataclasses.field(default_factory=dict)
    contents: bool = True
    digest: bool = False
    doctor: bool = True
    also: tuple[str, ...] = ()

    def reactions(self) -> dict[str, str]:
        """What has to happen, by damage."""
        found = {damage: self.but.get(damage, self.reaction) for damage in DAMAGES}
        if not self.contents:
            found |= dict.fromkeys([*CONTENTS, "absent"], "no matter")
        return found | dict.fromkeys([*self.also, *[FLIPPED] * self.digest], self.reaction)


def _run(results: Path, monkeypatch: Any) -> Stored:
    store, (run, *_) = Store(results), FIG1.runs("smoke", "wikitext2")
    whole = store.read(run.id)

    def train(*args: Any) -> Any:
        store.write(whole)
        return whole

    monkeypatch.setattr(training, "_train", train)
    return Stored([store.path(run.id)], lambda: repr(training.train_runs([run], store)))


def _tables(results: Path, monkeypatch: Any) -> Stored:
    paths = [results / "fig1" / f"{name}.parquet" for name in FIG1.tidy_tables]

    def read() -> object:
        return [tidy_tables.read_table(FIG1, "smoke", p.stem).to_json() for p in paths]

    return Stored(paths, read)


def _scale(results: Path, monkeypatch: Any) -> Stored:
    return Stored(
        [results / "fig1" / "scale.json"], lambda: tidy_tables.read_runs(FIG1, "smoke")[1]
    )


def _claims(results: Path, monkeypatch: Any) -> Stored:
    path = tidy_tables.claims_file(FIG1, "smoke")
    return Stored([path], lambda: verdicts.read(path))


def _tuned(results: Path, monkeypatch: Any) -> Stored:
    path = results.parent / "tuned.json"
    path.write_text('{"best": {"log2lr": -7}}')
    return Stored([path], lambda: tuned.best_point(path, TransformerConfig), (None,))


def _steps(results: Path, monkeypatch: Any) -> Stored:
    path = results.parent / "paper_steps.json"
    step = paper_steps.Step("done", "digits", 10, 4, 4, (2.3, 2.2), 0.5, 1.0, "")
    paper_steps.write(paper_steps.Steps("a processor", 4.0, {"0" * 16: step}), path)
    return Stored([path], lambda: paper_steps.read(path), (paper_steps.Steps("", 0.0, {}),))


def _marker(results: Path, monkeypatch: Any) -> Stored:
    path = results / "groups" / "0123456789ab.done"
    path.parent.mkdir()
    path.write_text("0123456789abcdef\n3\n")

    def read() -> object:
        workflow.check_markers([path])
        return isinstance(workflow.number_in(path), int | None)

    return Stored([path], read)


def _checkpoint(results: Path, monkeypatch: Any) -> Stored:
    path = results / "checkpoints" / f"{'0' * 16}.safetensors"
    model = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    kept = checkpoint.Checkpoint(path, {"id": "0" * 16})
    kept._write(model, optimizer, [1.0], 1.0, {}, {})

    def read() -> object:
        found = kept.restore(model, optimizer, 5)
        return found and found.losses

    return Stored([path], read, (None,))


def _machine(results: Path, monkeypatch: Any) -> Stored:
    found = process.Products("highest", {"highest": 1e-7}, {"highest": 1.0})
    monkeypatch.setattr(process, "_time_products", lambda: found)
    process._choose_matmul(process._machine_file())
    return Stored([process._machine_file()], process._chosen_matmul)


def _speed(results: Path, monkeypatch: Any) -> Stored:
    path = planning.speed_file(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"shapes": {}, "process": 3.0}')
    return Stored([path], lambda: planning.known(1), (planning.Speed(),))


def _prepared(names: str, load: Callable[[], Any]) -> Callable[[Path, Any], Stored]:
    """Files in folders of the cache with such names; whatever else is there is made anew."""

    def make(results: Path, monkeypatch: Any) -> Stored:
        some_data(results.parent / "data", monkeypatch)
        load()

        def read() -> str:
            for folder in places.cache_dir().glob("*/"):
                if not folder.match(names):
                    shutil.rmtree(folder)
            return load().fingerprint

        return Stored(sorted(places.cache_dir().glob(f"{names}/*")), read)

    return make


def _words() -> Any:
    return load_corpus("wikitext2", 20)


def _documents() -> Any:
    return pretraining.load_text("wikipedia_novels", 260, "bpe")


def _pairs() -> Any:
    return load_translation("multi30k", 262)


def some_data(root: Path, monkeypatch: Any) -> None:
    """A few rows of each text, as `MUPKIT_DATA`."""
    monkeypatch.setenv("MUPKIT_DATA", str(root))
    text = [f"the <unk> number {i} is {i * i} ." for i in range(40)]
    columns = {
        "wikitext/wikitext-2-v1": {"text": text},
        "wikipedia_en_sample": {"text": text},
        "english_novels": {"text": text, "doc": ["a"] * len(text)},
        "multi30k": {"de": text, "en": text},
    }
    for folder, table in columns.items():
        for split in ("train", "validation", "test"):
            write_split(root / folder, split, table)


def _articles(results: Path, monkeypatch: Any) -> Stored:
    path = results.parent / "articles.json.bz2"
    path.write_bytes(wikipedia.SAMPLE.read_bytes())
    monkeypatch.setattr(wikipedia, "SAMPLE", path)
    return Stored([path], lambda: len(wikipedia.articles()))


def _base_shapes(results: Path, monkeypatch: Any) -> Stored:
    path = results.parent / "model.bsh"
    mupkit.bsh.save({"hidden.weight": [64, 64], "readout.weight": [None, 64]}, path)
    return Stored([path], lambda: mupkit.bsh.load(path))


def _locks(results: Path, monkeypatch: Any) -> Stored:
    store = Store(results)
    names = [
        Path(store.lock("0" * 16).lock_file),
        Path(workflow.Workflow(results).lock.lock_file),
        Path(f"{planning.speed_file(1)}.lock"),
    ]

    def read() -> None:
        for path in names:
            with files.locked(path, ""):
                pass

    return Stored(names, read)


def _progress(results: Path, monkeypatch: Any) -> Stored:
    store, runs = Store(results), FIG1.runs("smoke", "wikitext2")[:2]
    stamp = results / ".progress-fig1"
    stamp.write_text("1 of 2 runs")

    def read() -> None:
        Progress("fig1", runs, store, 1)(store.read(runs[0].id))

    return Stored([stamp, Path(f"{stamp}.lock")], read)


TIMED = '{{"family": "a", "what": "b", "flops": 1, "seconds": {}, "start": 0}}'
CACHE = ("experiments.data.cache", "experiments.data.places")
KINDS = {
    "run": Kind(
        _run,
        ("experiments.runs.store",),
        "made again",
        {"unreadable": "named"},
        digest=True,
        also=("PAR1",),
    ),
    "tidy tables": Kind(_tables, ("experiments.products.tidy_tables",), "named", digest=True),
    "scale.json": Kind(_scale, ("experiments.products.tidy_tables",), "named", also=("{}",)),
    "claims.json": Kind(
        _claims,
        ("experiments.analysis.verdicts", "experiments.products.doctor.tables"),
        "named",
        also=("{}", "[null]", '[{"id": 1}]', "[[]]"),
    ),
    "tuned.json": Kind(
        _tuned,
        ("experiments.declare.tuned",),
        "named",
        {"absent": "no matter"},
        doctor=False,  # it tells which families are left out, and why: test_declarations
        also=(
            "{}",
            '{"best": []}',
            '{"best": {"nonsense": 1}}',
            '{"best": {"momentum": 1.5}}',
            *(f'{{"best": {{"log2lr": {rate}}}}}' for rate in ("null", "NaN", "1e999", '"-7"')),
        ),
    ),
    "paper_steps.json": Kind(
        _steps,
        ("experiments.products.paper_scale.steps",),
        "named",
        {"absent": "no matter"},
        doctor=False,  # it comes with the code, and a page is made of it
        also=("{}", '{"machine": "", "limit_gb": 1, "by_key": {"a": {"outcome": "perfect"}}}'),
    ),
    "marker of a group": Kind(
        _marker,
        ("experiments.cli.workflow",),
        "named",
        contents=False,  # without a number it is that of a job that was killed
    ),
    "checkpoint": Kind(
        _checkpoint,
        ("experiments.train.checkpoint",),
        "made again",
        dict.fromkeys(PLACES, "named"),
        digest=True,
        also=("PAR1", "{}"),
    ),
    "choice of the product": Kind(
        _machine,
        ("experiments.train.process",),
        "made again",
        {"a folder": "named", "unreadable": "named"},
        also=('{"matmul": "lowest"}', '{"matmul": null}'),
    ),
    "times of the machine": Kind(
        _speed,
        ("experiments.runs.planning",),
        "made again",
        {"unreadable": "named"},
        also=(
            '{"process": 1, "shapes": {"a": {"x": 1}}}',
            '{"process": -1, "shapes": {}}',
            *(
                f'{{"shapes": {{"a": {TIMED.format(seconds)}}}}}'
                for seconds in ("-1", "0", "NaN", "1e999")
            ),
        ),
    ),
    **{
        f"prepared {what}": Kind(
            _prepared(names, load), (*CACHE, module), "made again", digest=True, also=("{}",)
        )
        for what, names, module, load in (
            ("words", "*-full-*", "experiments.data.text", _words),
            ("words of a smaller vocabulary", "*-20-*", "experiments.data.text", _words),
            ("images", "*", "experiments.data.images", lambda: load_images("digits")),
            ("documents", "*", "experiments.data.pretraining", _documents),
            ("pairs", "*-pairs-*", "experiments.data.translation", _pairs),
            ("pairs as ids", "*-262-*", "experiments.data.translation", _pairs),
        )
    },
    "built-in articles": Kind(_articles, ("experiments.data.wikipedia",), "named", doctor=False),
    "base shapes": Kind(
        _base_shapes,
        ("mupkit.bsh",),
        "named",
        doctor=False,  # they are a user's own
        also=("a.weight: [0]", "a.weight: [[4]]", "a.weight: [4]\na.weight: [8]"),
    ),
    "locks": Kind(
        _locks,
        ("experiments.files",),
        "named",
        contents=False,
    ),
    "progress": Kind(_progress, ("experiments.runs.progress",), "no matter", contents=False),
}


def damage(path: Path, how: str) -> None:
    """Do one of `DAMAGES` to a file, or let it have another content, such as one of `Kind.also`."""
    (DAMAGES | {FLIPPED: _flip}).get(how, _write(how.encode()))(path)


def generated() -> str:
    """What docs/robustness.md says of `KINDS`, in Markdown."""
    all_reactions = [r for kind in KINDS.values() for r in kind.reactions().values()]
    counts = [f"{all_reactions.count(r)} {r}" for r in ("made again", "named", "no matter")]
    rows = [
        f"{len(KINDS)} kinds of files, {len(all_reactions)} damages: {', '.join(counts)}.",
        "",
        "| file | if damaged | but | further contents that are damage |",
        "|---|---|---|---|",
    ]
    for name, kind in KINDS.items():
        others: dict[str, list[str]] = {}
        for how, reaction in kind.reactions().items():
            if reaction != kind.reaction:
                others.setdefault(reaction, []).append(how)
        but = "; ".join(f"{reaction}: {', '.join(hows)}" for reaction, hows in others.items())
        rows.append(f"| {name} | {kind.reaction} | {but} | {len(kind.also) or ''} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(generated())
