# What the rules need of the registry. No science here, and no torch.
import atexit
import functools
import shlex
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))

from snakemake.cli import get_argument_parser
from snakemake.logging import logger

from experiments.cli.options import stack_size
from experiments.cli.workflow import (
    Workflow,
    check_dates,
    check_folder,
    check_groups,
    check_markers,
    check_targets,
    damaged_claims,
    kept,
    made,
    number_in,
    options,
    prepare_jobs,
    to_train,
    watch,
)
from experiments.declare import registry
from experiments.declare.data_sources import resolve_all
from experiments.declare.product import Figure
from experiments.errors import Interrupted, UserError
from experiments.messages import note, prepare_streams
from experiments.products.tidying import made_by_other_code
from experiments.runs.grouping import groups
from experiments.runs.places import ROOT
from experiments.runs.planning import known_best
from experiments.runs.requests import megabytes, minutes
from experiments.runs.store import Store
from experiments.runs.training import missing
from experiments.runs.versions import computing_code, drawing_code

if sys.stderr is None:  # jobs write there
    shell.prefix("set -euo pipefail; exec 2>/dev/null; ")
prepare_streams()


def stop(error):
    """End with one line and status 2, as the command line does."""
    sys.stderr.write(f"error: {error}\n")
    sys.exit(2)


try:
    check_folder(Path(workflow.basedir))
    OPTIONS = options(config)
    prepare_jobs(OPTIONS, Path(workflow.basedir))
    SCALE = OPTIONS.scale
    DATA = resolve_all(OPTIONS.data)
    GROUPS, NEEDED = groups(SCALE, DATA)
    # Of the products that need a group any one: all of them use the same data source.
    NEEDING = {group: name for name, needed in NEEDED.items() for group in needed}
except UserError as error:
    stop(error)

RESULTS = f"results/{SCALE}"
FIGURES = f"figures/{SCALE}"
LOGS = f"logs/{SCALE}"
STORE = Store(Path(workflow.basedir) / RESULTS)
for folder in (STORE.folder.parent, STORE.folder):
    if folder.exists() and not folder.is_dir():  # Snakemake itself would end with a traceback
        stop(f"cannot write {folder}: it is no folder; move it away")
# Not params: another interpreter or number of cores is no reason to run a job again.
PYTHON = shlex.quote(sys.executable).replace("{", "{{").replace("}", "}}")
EXPERIMENTS = f"{PYTHON} -m experiments"
# On a cluster as many jobs run at once as --jobs says.
STACK = stack_size(OPTIONS.stack)
SPEED = functools.cache(lambda: known_best(stack=STACK))
JOBS = workflow.resource_settings.cores or workflow.resource_settings.nodes or 1
PRODUCTS = {
    name: "figure" if isinstance(product, Figure) else "table"
    for name, product in registry.products().items()
}
# What was asked for: a job whose runs several products need reports on those that were named, and
# helps with what was asked alone. Not params either. A process of Snakemake that runs a job of
# another one, as on a cluster, was asked for nothing.
ARGUMENTS = get_argument_parser().parse_known_args(sys.argv[1:])[0]
TARGETS = ARGUMENTS.targets or []
ASKED = registry.asked(TARGETS) if workflow.is_main_process else []
NAMED = " ".join(
    f"--product {name}"
    for name in (*registry.COLLECTIVE, *PRODUCTS)
    if name in (TARGETS or ["all"]) and ASKED
)
try:
    wanted = [job.wildcards_dict.get("group") for job in ARGUMENTS.target_jobs]
    check_groups(filter(None, wanted), GROUPS, DATA)
except UserError as error:
    stop(error)
# A cluster gives the next group to the next free place; a job that helped would outlive its time.
HELPING = "--no-helping" if workflow.remote_exec else "--helping"


# Other code is no reason to train again, but a reason to say so, also where nothing is to be done.
for name, product in registry.products().items():
    if name in TARGETS and (count := made_by_other_code(product, SCALE)):
        note(
            f"{name}: other code than this checkout's made {count} of its runs; "
            f"`python -m experiments forget {name} --scale {SCALE} --stale` drops them"
        )


def rules_outputs(target):
    """What draw makes of all that a target of `registry.COLLECTIVE` stands for."""
    return [path for name in registry.asked([target]) for path in drawn(name)]


def drawn(name):
    """What draw makes of one product."""
    suffixes = registry.product(name).suffixes
    return [*(f"{FIGURES}/{name}.{s}" for s in suffixes), f"{RESULTS}/{name}/claims.json"]


def reported(name):
    """What draw makes of one product; Snakemake's own report shows its picture or its page."""
    product = registry.product(name)
    shown = f"{FIGURES}/{name}.{'png' if PRODUCTS[name] == 'figure' else 'html'}"
    about = report(
        shown,
        caption="../report/caption.rst",
        category=registry.exhibit(product.exhibit).title,
        labels={"name": name, "number": product.label, "title": product.title},
    )
    return [about if path == shown else path for path in drawn(name)]


def tables(name):
    """What collect makes of one product."""
    names = (*(f"{table}.parquet" for table in registry.product(name).tidy_tables), "scale.json")
    return [f"{RESULTS}/{name}/{file}" for file in names]


def processes(name):
    """How many processes collect needs: more than one where it trains what follows."""
    return JOBS if registry.product(name).follow_up else 1


def following(name):
    """The runs that collect trains."""
    product = registry.product(name)
    if not product.follow_up or product.exhibit not in DATA:
        return []
    from experiments.products.following import expected

    return expected(product, SCALE, DATA[product.exhibit], STORE)


def following_minutes(name):
    """How long a cluster lets collect work, as a function that Snakemake calls for its job."""
    return lambda wildcards, attempt, threads: minutes(following(name), SPEED(), attempt, threads)


def following_megabytes(name):
    """How much memory a cluster lets collect fill."""
    return lambda wildcards, attempt, threads: megabytes(following(name), attempt, threads, STACK)


def computation(name):
    """The code of a product's computation and its settings; nothing for trainings."""
    found = registry.product(name).computation
    if found is None:
        return [], ""
    return [relative(file) for file in computing_code(found)], repr(found.at(SCALE))


def relative(file):
    """A path as the rules write it."""
    return str(file.relative_to(ROOT))


def marker(group):
    """The file that says that a group's runs are in the store."""
    return f"{RESULTS}/groups/{group}.done"


def repairs(path, lost):
    """How often a job was run again because what it had made was lost; one more if it is lost now.

    Snakemake knows files by their dates, and runs not at all. So this number is a parameter of the
    rule, and its job writes it down: what is lost changes the parameter, and Snakemake runs the job
    again, with what follows. Nothing is touched here: a dry run only looks.

    Args:
        path: of the file whose last word is the number.
        lost: whether something is lost now.
    """
    try:
        return (number_in(path) or 0) + bool(lost)
    except UserError as error:
        stop(error)


def retrainings(group):
    """The number of `repairs` of a group: runs that were lost or truncated since its marker."""
    path = Path(workflow.basedir) / marker(group)
    return repairs(path, path.exists() and missing(GROUPS[group].runs, STORE))


def redrawings(name):
    """The number of `repairs` of a drawing: verdicts that are damaged."""
    return repairs(STORE.folder / name / "redrawings", name in DAMAGED)


def data_option(name):
    """The data source of a product; none where it cannot be had, so that its job says why."""
    data_source = DATA.get(registry.product(name).exhibit)
    return f"--data {data_source}" if data_source else ""


def drawing(name):
    """Files whose change redraws a product."""
    return [relative(file) for file in drawing_code(registry.product(name))]


def files(name):
    """Whatever a product is made of, or is."""
    markers = [marker(group) for group in NEEDED[name]]
    return [*drawing(name), *computation(name)[0], *markers, *tables(name), *drawn(name)]


try:
    check_dates({Path(file) for name in ASKED for file in files(name)}, time.time())
except UserError as error:
    stop(error)


try:
    DAMAGED = damaged_claims(ASKED, SCALE)
except UserError as error:
    stop(error)
for name, damage in DAMAGED.items():
    note(f"{damage}; {name} is drawn and judged again")


# One workflow at a time in a results folder; a second one waits and then finds the runs done.
WORKFLOW = Workflow(STORE.folder)


def training_lines(names):
    return to_train(names, SCALE, DATA, JOBS, OPTIONS.stack)


onstart:
    try:
        WORKFLOW.start(cluster=workflow.non_local_exec)  # it is not known before
    except UserError as error:
        stop(error)
    except Interrupted:
        note("stopped while it waited: nothing was begun; the same command starts again")
        sys.exit(130)
    for line in training_lines([name for name in ASKED if name in TARGETS]):
        note(line)
    if workflow.non_local_exec:
        WORKFLOW.follow(watch(ASKED, SCALE, DATA))
    for handler in logger.handlers:
        handler.addFilter(WORKFLOW.quiet)


onsuccess:
    WORKFLOW.end()
    for line in made(ASKED, SCALE):
        note(line)


onerror:
    WORKFLOW.end()
    if WORKFLOW.stopped:
        note(kept(ASKED, SCALE, DATA))


@atexit.register
def say_what_there_is():
    """The runs to train after a dry run; the pictures and verdicts where nothing was to be done."""
    if workflow.execution_settings is None or not workflow.is_main_process:
        return  # it was no dry run and made nothing
    done = workflow.dag is not None and not len(workflow.dag)
    if not workflow.dryrun and not done:
        return
    for line in made(ASKED, SCALE) if done else training_lines(ASKED):
        note(line)


wildcard_constraints:
    group="[0-9a-f]{12}",
