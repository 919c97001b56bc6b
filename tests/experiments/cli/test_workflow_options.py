"""What the Snakefile takes from `--config` and its targets, and what it says."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import train, workflow
from experiments.declare import registry
from experiments.declare.data_sources import resolve_all
from experiments.declare.product import Figure
from experiments.errors import UserError
from experiments.messages import duration
from experiments.products.following import expected, expected_of
from experiments.runs import grouping, planning, stopping
from experiments.runs.places import ROOT
from experiments.runs.store import Store


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"scales": "smoke"}, ("scales=smoke", "did you mean 'scale'?")),
        ({"Scale": "smoke"}, ("Scale=smoke", "did you mean 'scale'?")),
        ({"datadir": "x"}, ("datadir=x", "did you mean 'data_dir'?")),
        ({"seed": 3}, ("seed=3", "data, data_dir, scale")),
        ({"scale": "huge"}, ("unknown scale 'huge'",)),
        ({"scale": None}, ("scale=", "no value")),
        ({"scale": 1}, ("scale=1", "int")),
        ({"data": 1}, ("data=1", "int")),
        ({"data": True}, ("data=True", "bool")),
        ({"data": ["a"]}, ("data=['a']", "list")),
        ({"data_dir": 2024}, ("data_dir=2024", "write data_dir=./NAME")),
        ({"data_dir": None}, ("data_dir=", "no value")),
        ({"data_dir": "~no-such-user/x"}, ("data_dir=~no-such-user/x", "home folder")),
    ],
)
def test_wrong_options_are_one_line_with_key_and_value(config, words) -> None:
    with pytest.raises(UserError) as caught:
        workflow.options(config)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options(monkeypatch) -> None:
    assert workflow.options({}) == workflow.Options("small", None, None, "1")
    monkeypatch.setenv("HOME", "/home/someone")
    given = workflow.options({"scale": "smoke", "data": "digits", "data_dir": "~/x"})
    assert given == workflow.Options("smoke", "digits", Path("/home/someone/x"), "1")
    assert [workflow.options({"stack": n}).stack for n in (16, "auto")] == ["16", "auto"]
    for wrong in (0, "many", True, -1):
        with pytest.raises(UserError, match=r"stack: .* is neither auto nor a number of runs"):
            workflow.options({"stack": wrong})
    assert workflow.options({"data_dir": "x"}).data_dir == Path.cwd() / "x"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("fig6x", "unknown target 'fig6x'; did you mean 'fig6'?"),
        ("fig99", "fig99 is not there: the paper has no such figure, or it is not made yet"),
        ("table77", "table77 is not there: the paper has no such table"),
        ("figures/small/fig1.jpg", "did you mean 'figures/small/fig1.png'?"),
    ],
)
def test_unknown_targets_are_one_line(target, words) -> None:
    known = [*registry.products(), "all", "figures/small/fig1.png"]
    with pytest.raises(UserError) as caught:
        workflow.check_targets(["fig1", target], known)
    assert words in str(caught.value)
    workflow.check_targets(["fig1", "all", "./figures/small/fig1.png"], known)


def test_what_targets_stand_for() -> None:
    names = list(registry.products())
    figures = [name for name in names if isinstance(registry.product(name), Figure)]
    assert registry.asked([]) == registry.asked(["all"]) == names
    assert registry.asked(["figures"]) == figures
    assert 0 < len(figures) < len(names)
    wanted = {"fig1", "fig2"} | {*names} - {*figures}
    assert {*registry.asked(["fig2", "tables", "fig1"])} == wanted
    assert registry.asked(["clean", "figures/small/fig1.png"]) == []


def test_another_folder_is_refused(tmp_path, monkeypatch) -> None:
    workflow.check_folder(Path.cwd())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"cd {ROOT}"):
        workflow.check_folder(ROOT)


def test_a_folder_whose_name_snakemake_cannot_take_is_refused(tmp_path, monkeypatch) -> None:
    home = tmp_path / "x{y}"
    home.mkdir()
    monkeypatch.chdir(home)
    with pytest.raises(UserError, match=re.escape(f"cannot work in {home}: ")):
        workflow.check_folder(home)


def test_files_from_the_future_are_refused(tmp_path) -> None:
    files = [tmp_path / name for name in ("a.py", "b.py", "c.py", "none")]
    for file, late in zip(files, (-1, workflow.CLOCK_SKEW - 1, 1e6), strict=False):
        file.touch()
        os.utime(file, (1e9 + late, 1e9 + late))
    workflow.check_dates([files[0], files[1], files[3]], 1e9)
    with pytest.raises(UserError, match=r"c.py is dated in the future \(2001-09-2") as caught:
        workflow.check_dates(files, 1e9)
    assert "-newermt now -exec touch" in str(caught.value)


def test_what_is_to_be_searched_first_is_said(tmp_path) -> None:
    data = {"transformer_wikitext2": "wikipedia_sample", "mlp_cifar10": "digits"}
    assert "--scale paper" not in "".join(workflow.to_train(["fig3"], "paper", data, 2))
    line, search = workflow.to_train(["fig7", "fig2"], "paper", data, 2)
    assert line.startswith("fig7: 90 runs to train")
    assert search == (
        "transformer_wikitext2: the search at the scale paper is not made yet, so that its runs "
        "have base hyperparameters of the search at the scale small; `python -m experiments tune "
        "transformer_wikitext2 --scale paper` makes it"
    )
    assert len(workflow.to_train(["fig7"], "small", data, 2)) == 1


def test_runs_and_times_before_and_after(tiny, tmp_path, monkeypatch) -> None:
    from experiments.runs import places

    monkeypatch.setattr(places, "ROOT", tmp_path)
    data = resolve_all()
    (line,) = workflow.to_train(["fig1", "fig2"], "smoke", data, 2)
    assert line.startswith("fig1: 24 runs to train, about ")
    monkeypatch.setattr(workflow, "known_times", lambda cores, stack=1: planning.Speed())
    (line,) = workflow.to_train(["table12"], "smoke", {"resnet_cifar10": "digits"}, 2)
    assert line.startswith("table12: 4 runs to train, and 4 runs that follow, about ")
    assert line.endswith(" (`python -m experiments plan table12` times it)")
    store = Store(tmp_path / "results" / "smoke")
    more = expected(registry.product("table12"), "smoke", "digits", store)
    assert len(more) == 4
    seconds = planning.left(
        registry.product("table12").runs("smoke", "digits"), store, planning.Speed(), 2, more
    ).seconds
    assert f"about {duration(seconds)} (" in line
    (line,) = workflow.to_train(["fig1"], "smoke", data, 2, "auto")
    assert line.endswith(
        " without stacks (`python -m experiments plan fig1 --stack auto` counts them)"
    )
    assert workflow.kept(["fig1"], "smoke", data).startswith("stopped: 0 of 24 runs are kept")


@pytest.fixture
def signals():
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    os.environ.pop(stopping.VARIABLE, None)


def test_a_signal_ends_what_the_jobs_look_at(tmp_path, signals) -> None:
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    (tmp_path / ".workflow-1").touch()  # of one that was killed
    assert not stopping.stopped()
    running = workflow.Workflow(tmp_path)
    running.start()
    assert not stopping.stopped()
    assert not (tmp_path / ".workflow-1").exists()
    os.kill(os.getpid(), signal.SIGHUP)
    assert stopping.stopped()
    assert running.stopped
    assert heard == [signal.SIGHUP]
    running.lock.release()


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_any_signal_cancels_the_jobs_of_a_cluster(number, tmp_path, signals) -> None:
    signal.signal(number, lambda number, frame: None)
    running = workflow.Workflow(tmp_path)
    running.start(cluster=True)
    with pytest.raises(KeyboardInterrupt):  # Snakemake cancels its jobs then
        os.kill(os.getpid(), number)
    assert running.stopped and stopping.stopped()
    running.lock.release()


def test_how_far_a_cluster_is_is_told_when_it_changes(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(workflow, "results_dir", lambda scale: tmp_path)
    data = {registry.product("fig1").exhibit: "wikitext2"}
    looking = workflow.watch(["fig1", "fig2"], "smoke", data)
    looking.look()
    assert capsys.readouterr().err == ""
    assert looking.count == 24
    for run in sorted(looking.left)[:2]:
        looking.store.path(run).parent.mkdir(exist_ok=True)
        looking.store.path(run).write_bytes(b"PAR1 PAR1")
    looking.look()
    looking.look()
    assert capsys.readouterr().err == "2 figures and tables: 2 of 24 runs\n"

    monkeypatch.setattr(workflow, "SECONDS_BETWEEN_LINES", 0.01)
    running = workflow.Workflow(tmp_path)
    running.follow(workflow.watch(["fig1"], "smoke", data))
    running.end()
    assert capsys.readouterr().err == "fig1: 2 of 24 runs\n"


def test_what_follows_from_runs_is_told_with_them(tmp_path, monkeypatch, capsys) -> None:
    name, scale = "table12", "smoke"
    monkeypatch.setattr(workflow, "results_dir", lambda scale: tmp_path)
    monkeypatch.setattr(train, "results_dir", lambda scale: tmp_path)
    product, store = registry.product(name), Store(tmp_path)
    data = {product.exhibit: "digits"}
    follow = expected(product, scale, "digits", store)
    assert follow and expected_of([name, name, "no product"], scale, data, store) == follow
    assert expected_of([name, "fig1"], scale, {}, store) == []

    looking = workflow.watch([name], scale, data)
    run = min(looking.left)
    looking.store.path(run).parent.mkdir()
    looking.store.path(run).write_bytes(b"PAR1 PAR1")
    looking.look()
    count = f"1 of {looking.count} runs, and {len(follow)} that follow\n"
    assert capsys.readouterr().err == f"{name}: {count}"

    told = []
    monkeypatch.setattr(train, "Progress", lambda *args: told.append(args))
    monkeypatch.setattr(train, "resolve_all", lambda chosen: data)
    for function in ("train_runs", "help_with"):
        monkeypatch.setattr(train, function, lambda *args, **options: None)
    (group, *_) = grouping.groups(scale, data)[1][name]
    train.train(group, [name], scale)
    ((*_, ask),) = told
    assert ask() == follow


def test_a_node_that_finds_other_data_than_the_workflow_says_so() -> None:
    data = {"transformer_wikitext2": "wikipedia_sample", "theory": ""}
    workflow.check_groups(["a"], ["a", "b"], data)
    with pytest.raises(UserError, match=r"group c .*\(wikipedia_sample\), .*set MUPKIT_DATA"):
        workflow.check_groups(["a", "c"], ["a", "b"], data)


@pytest.mark.parametrize(
    ("content", "number"),
    [("0123\n4567\n3\n", 3), ("0123\n", 123), ("01ab\n", 0), ("", 0), ("7\n" + "9" * 5000, 0)],
)
def test_the_last_word_of_a_marker_is_its_number(tmp_path, content, number) -> None:
    marker = tmp_path / "a.done"
    assert workflow.number_in(marker) is None
    marker.write_text(content)
    assert workflow.number_in(marker) == number


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_marker_of_a_group_is_named(tmp_path, kind) -> None:
    path = tmp_path / "a.done"
    makes = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}
    workflow.check_markers([path])
    makes.get(kind, lambda: path.symlink_to(tmp_path / "nowhere"))()
    with pytest.raises(UserError, match=f"{path}: a {kind} where the marker of a group belongs"):
        workflow.check_markers([path])


def test_ignored_signals_stay_ignored(signals) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    stopping.heed_signals()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_signal_while_python_ends_is_no_exception_that_nobody_catches() -> None:
    code = (
        "import atexit, os, signal; from experiments.cli import main; main.app = lambda: None; "
        "signal.signal(signal.SIGTERM, signal.SIG_DFL); "
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM)); main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


@pytest.mark.parametrize("number", stopping.SIGNALS)
@pytest.mark.parametrize("job", [False, True])
def test_a_signal_is_one_line_of_who_is_no_job(number, job, monkeypatch, capsys, signals) -> None:
    from experiments.cli import main

    if job:
        monkeypatch.setenv(stopping.VARIABLE, "/nowhere")
    monkeypatch.setattr(main, "app", lambda: os.kill(os.getpid(), number))
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, usual)  # nohup and shells may have it ignored
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 130
    line = "stopped: finished work is kept; the same command goes on with the rest\n"
    assert capsys.readouterr().err == ("" if job else line)
