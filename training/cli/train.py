"""`allot train`, with a flag for each setting, and commands that tell what was learnt.

Those are `evaluate`, `report`, `explain`, `dashboard` and `shadow`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, replace
from fnmatch import filter as matching
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from controller.backends.places import NamedModels
from controller.bundled import bundled
from controller.errors import ConfigError, check_range
from training.cli.flags import (
    Json,
    RayOptions,
    Setting,
    argument,
    flag,
    pairs,
    parameter,
    taking,
    with_flags,
)
from training.learn.settings import ALIASES, SETTINGS, WandbMode, learnt_from, resolve
from training.report.view import plain_console

if TYPE_CHECKING:
    from controller.checkpoint import AnyCheckpoint
    from envs.granularity import AnyTraces
    from training.compare.evaluation import Evaluation

console = plain_console()


def _metavar(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return "<A,B,...>"
    if get_origin(kind) is Mapping:
        return "<MODEL=COST>"
    if get_origin(kind) is Literal:
        return f"<{'|'.join(get_args(kind))}>"
    return f"<{kind.__name__.lower()}>"


def _help(setting: Setting) -> str:
    text, default = setting.help, setting.default
    if default is MISSING or default in ((), {}, ""):
        return text
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if isinstance(default, Path):
        default = "the bundled one"
    shown = f"{default:_}" if isinstance(default, int) else default
    return f"{text} Default: {shown}."


def _flag(setting: Setting) -> inspect.Parameter:
    """A parameter that takes text: files and flags are checked in one place, `resolve`."""
    names = [setting.name, *(short for short, name in ALIASES.items() if name == setting.name)]
    kind = list[str] if get_origin(setting.kind) is Mapping else str
    option = {"metavar": _metavar(setting.kind), "rich_help_panel": setting.group}
    more = {"names": [dashed(f"--{name}") for name in names], "option": option}
    return parameter(
        replace(setting, kind=kind | None, default=None, help=_help(setting), metadata=more)
    )


def _with_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace a command's `**flags` by one flag per setting."""
    *own, _ = inspect.signature(command, eval_str=True).parameters.values()
    return taking(command, [*own, *map(_flag, SETTINGS.values())])


def dashed(name: str) -> str:
    """A flag as the command line spells it: sweeps of W&B write underscores."""
    return name.replace("_", "-")


@_with_flags
def train(
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings, by their names.", rich_help_panel="Run"),
    ] = None,
    **flags: Any,
) -> Any:
    """Train a controller by PPO on recorded attempts; run again to resume.

    Settings are flags or, under the same names, lines of a YAML file; flags win. The run
    directory holds them all in config.yaml.
    """
    given = {n: ",".join(v) if isinstance(v, list) else v for n, v in flags.items()}
    settings = resolve(given, config)

    from training.learn.runs import train_all

    return train_all(settings, plain_console())  # for callers from Python


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to compare, and where the results go.

    Attributes:
        controllers: checkpoints, or directories of `--seeds`; seeds are pooled.
        traces: trace set; default: the one that the first was trained on, as its run directory
            says, else one named traces beside it, else the bundled one of their granularity.
        out: directory for pictures and evaluation/, which `allot report` reads; default: the
            first one given.
        datasets: test questions of these data sets alone, `*` for anything; needs an `out` of its
            own, and leaves the model card as it is. Repeatable.
        num_prices: evenly spaced on a log scale.
        repeats: episodes per question and price.
        beside: other controllers, of either granularity, on their traces of the same test
            questions; seeds are pooled. Prices are those of the first. Repeatable.
        greedy: add attempts at temperature 0, by the live models.
        results: Markdown file to write the results to.
        cluster: that controllers are played on.
        as_json: print JSON instead of tables.
        wandb: W&B: auto, online, offline or disabled.
    """

    controllers: tuple[Path, ...] = argument()
    traces: Path | None = None
    out: Path | None = None
    datasets: tuple[str, ...] = flag((), metavar="NAME")
    num_prices: int = 12
    repeats: int = 8
    beside: tuple[str, ...] = flag((), metavar="NAME=CONTROLLER[,...]@TRACES")
    greedy: bool = flag(False, "--greedy")
    results: Path | None = None
    cluster: RayOptions
    as_json: bool = flag(False, "--json")
    wandb: WandbMode = "auto"

    def __post_init__(self) -> None:
        check_range(self, ("num_prices", "repeats"), least=1)
        if self.datasets and self.out is None:
            raise ConfigError("out: expected a directory for figures of some datasets, found none")


@with_flags(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    """Compare controllers with tuned rules on the test split; fills in the model card."""
    from controller.checkpoint import load_any
    from controller.files import write_text
    from envs.granularity import read_traces
    from training.learn.runs import seed_directories
    from training.learn.threads import limit_threads
    from training.report.markdown import results_markdown, write_card
    from training.report.show import command_line, print_results
    from training.report.tracking import PICTURES, log_evaluation

    limit_threads()
    controllers = {path: load_any(path) for path in seed_directories(options.controllers)}
    (path, first), *_ = controllers.items()
    shipped = bundled("segments/traces" if first.granularity.name == "segments" else "traces")
    traces = read_traces(options.traces or learnt_from(path) or shipped)
    out = options.out or options.controllers[0]
    evaluation = _evaluated(options, controllers, traces, out)
    results = evaluation.results
    log_evaluation(evaluation, traces, controllers, out, options.wandb)
    if not options.datasets:
        write_card(evaluation)
    if options.results is not None:
        text = results_markdown(results, command_line(), len(controllers), evaluation.about.models)
        write_text(options.results, text)
    if options.as_json:
        print(json.dumps(results.to_json(), indent=1))
        return
    print_results(console, results)
    console.print(f"pictures: {', '.join(str(out / f'{name}.png') for name in PICTURES)}")
    console.print(results.verdict, highlight=False)


def _only(datasets: Sequence[str], traces: AnyTraces) -> AnyTraces:
    """The questions of some data sets alone."""
    from envs.questions.table import column

    held, wanted = column(traces.questions, "dataset", ""), set[str]()
    names = sorted(set(held))
    for pattern in datasets:
        found = matching(names, pattern)
        if not found:
            raise ConfigError(f"datasets: expected some of {names}, found {pattern!r}")
        wanted |= {*found}
    kept = [name in wanted for name in held]
    return replace(traces, questions=traces.questions.filter(kept))


def _evaluated(
    options: EvaluateOptions,
    controllers: Mapping[Path, AnyCheckpoint],
    traces: AnyTraces,
    out: Path,
) -> Evaluation:
    """Play all, and keep what was found."""
    from controller.process.episodes import EpisodeConfig
    from envs.granularity import recorded_of, table_of
    from envs.traces.table import TraceTable
    from training.compare.evaluate import compare, read_others
    from training.compare.evaluation import About, save_evaluation
    from training.compare.results import CONTROLLER
    from training.compare.summary import summarise
    from training.compare.yardsticks import play_greedy
    from training.learn.calibration import cross_calibrated

    checkpoints = list(controllers.values())
    first, names = checkpoints[0], [model.name for model in checkpoints[0].models]
    tested = _only(options.datasets, traces) if options.datasets else traces
    test = recorded_of(tested, ["test"], names)
    tuning = table_of(traces, ["train", "validation"], names)
    if isinstance(tuning, TraceTable) and isinstance(first.config, EpisodeConfig):
        tuning = cross_calibrated(tuning, first.config)
    comparison = compare(
        checkpoints,
        tuning,
        test.table,
        others=read_others(options.beside),
        fixed=play_greedy(traces, test.questions, first.config.cost) if options.greedy else None,
        num_prices=options.num_prices,
        repeats=options.repeats,
        cluster=options.cluster.cluster(),
    )
    about = About(
        controllers=tuple(map(str, controllers)),
        traces=traces.path.resolve().name,
        traces_digest=traces.manifest.get("digest"),
        models=tuple(names),
        repeats=options.repeats,
    )
    return save_evaluation(
        out,
        about,
        summarise(comparison, test.questions, first.config.cost.currency),
        checkpoint=first,
        recorded=test,
        played=comparison.played[CONTROLLER],
    )


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories that `allot evaluate` has written to.", metavar="RUN"),
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    questions: Annotated[
        int, typer.Option(min=1, help="Of which single episodes can be stepped through.")
    ] = 48,
) -> None:
    """Compare runs on one HTML page that needs no network and no account.

    Frontier with intervals, policies by utility at a price of your choice, single episodes
    decision by decision, actions by difficulty and training curves. Leads are those of the
    first RUN; all must have been evaluated on the same questions and prices.
    """
    from training.report.page import write_report

    write_report(runs, out, questions)
    console.print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, opens in any browser")


def dashboard(
    project: Annotated[str, typer.Argument(help="W&B project, or ENTITY/PROJECT.")],
    show: Annotated[
        bool, typer.Option("--print", help="Print what would be saved; needs no account.")
    ] = False,
) -> None:
    """Build a W&B workspace over the runs of train and evaluate."""
    from training.report.tracking import build_workspace, save_workspace

    entity, _, name = project.rpartition("/")
    workspace = build_workspace(entity, name)
    if show:
        print(json.dumps(workspace._spec, indent=1))
    else:
        console.print(save_workspace(workspace), highlight=False)


def explain(
    controller: Annotated[
        Path, typer.Argument(help="Checkpoint.", show_default="the bundled one")
    ] = bundled("controller"),
    traces: Annotated[
        Path | None,
        typer.Option(help="Trace set.", show_default="the one that it was trained on, or bundled"),
    ] = None,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("policy.png"),
) -> None:
    """Draw what a controller does, when, and at which price."""
    from controller.checkpoint import load_checkpoint
    from envs.traces.format import TraceSet
    from envs.traces.table import build_table
    from training.learn.threads import limit_threads
    from training.report.plots import plot_policy

    limit_threads()
    checkpoint = load_checkpoint(controller)
    names = [model.name for model in checkpoint.models]
    held = TraceSet.read(traces or learnt_from(controller) or bundled("traces"))
    plot_policy(checkpoint, build_table(held, ["test"], names), out)
    console.print(f"{out}: drawn from the test split")


@dataclass(frozen=True, kw_only=True)
class ShadowConfig:
    """Which controller is tried, and what it may spend.

    Attributes:
        controller: checkpoint.
        models: of the log; asked where it has no attempt.
        spend: small-model tokens that new attempts may cost, all together.
        references: files with what is right, by question_id or question; repeatable.
        map_references: THEIRS=OURS, a column of those files by its name here; repeatable.
        grader: MODULE:FUNCTION of question and answer, instead of references.
    """

    controller: Path = bundled("controller")
    models: NamedModels = field(default_factory=NamedModels)
    spend: float = 0.0
    references: tuple[Path, ...] = ()
    map_references: tuple[str, ...] = ()
    grader: str | None = None

    def __post_init__(self) -> None:
        check_range(self, ("spend",), least=0)
        if self.references and self.grader is not None:
            raise ConfigError("references, grader: expected at most one of them")


@with_flags(ShadowConfig)
def shadow_(
    log: Annotated[Path, typer.Argument(help="Of allot serve --log FILE --log-texts.")],
    *,
    config: ShadowConfig,
    as_json: Json = False,
) -> None:
    """Say what a controller would have saved and lost on questions that were served."""
    from controller.answers import answer_kind, imported, is_one_of, right_answers
    from controller.backends.base import Backend
    from controller.checkpoint import load_checkpoint
    from controller.loading import load_backend
    from controller.loop import Controller
    from controller.process.types import Question
    from envs.traces.readers import read_episodes, read_references
    from training.compare.shadow import LoggedFirst, shadow
    from training.report.show import print_shadow

    checkpoint = load_checkpoint(config.controller)
    kind = answer_kind(checkpoint.answers)
    theirs = pairs("map_references", config.map_references)
    known = read_references(*config.references, columns=theirs)
    grade = None if config.grader is None else imported("grader", config.grader)

    def right(question: Question, answer: str | None) -> bool | None:
        if grade is not None:
            return answer is not None and bool(grade(question.text, answer))
        row = known.get(question.question_id, known.get(question.text))
        references = () if row is None else tuple(right_answers(row["reference"]))
        return None if row is None else is_one_of(kind, answer, references)

    rows = read_episodes(log)
    backend = load_backend(checkpoint, config.models.all)
    assert isinstance(backend, Backend)
    logged = LoggedFirst(backend, checkpoint.config.cost, config.spend)
    with Controller.load(checkpoint, logged) as controller:
        found = shadow(rows, controller, right)
    if as_json:
        print(json.dumps(asdict(found), indent=1))
    else:
        print_shadow(console, found)
