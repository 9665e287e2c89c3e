"""The command line: the flows' own functions, one command each."""

import json
import os
import sys
from typing import Annotated

import typer

from flows.cli.attack import attack
from flows.cli.clean import clean
from flows.cli.compare import compare
from flows.cli.erase import demo, erase
from flows.cli.generate import generate
from flows.cli.lists import init, lists
from flows.cli.models import models
from flows.cli.plan import ListArgument, ProfileOption, doctor, plan
from flows.cli.results import results
from flows.cli.share import pull, push
from flows.cli.status import status
from flows.cli.store import store
from flows.cli.watch import watch
from flows.page.command import ui
from flows.serving.command import serve
from flows.terminal.command import command_of, places_here, table
from flows.terminal.ending import quick_end
from wording.figures import number

os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")  # nothing is told to anybody unless asked for
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # errors reach the user once, as our own message

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Takes concepts out of text-to-image models: trains, tests, stores and registers CPE gates.",
    epilog="Places come from the environment: CPE_WORK (outputs), CPE_STORE (file:// or s3://), MLFLOW_TRACKING_URI, "
    "CPE_DEVICE, CPE_THREADS. Set CPE_DEBUG=1 for tracebacks.",
)


def _version(asked: bool) -> None:
    if asked:
        import cpe

        print(cpe.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Takes concepts out of text-to-image models: trains, tests, stores and registers CPE gates."""


command = command_of(app)
command(doctor)
command(plan)
command(status)
command(clean)
command(watch)
command(results)
command(init)
command(ui)
command(serve)
command(push)
command(pull)
command_of(app, resumes=True)(compare)
app.add_typer(models, name="models")
app.add_typer(lists, name="lists")
app.add_typer(store, name="store")


command_of(app, resumes=True)(erase)
command_of(app, resumes=True)(demo)
command_of(app, resumes=True)(attack)


@command_of(app, resumes=True)
def evaluate(
    name: ListArgument,
    profile: ProfileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print scores for programs.")] = False,
) -> None:
    """Draw and measure a list whose gates are trained already, without training or registering anything."""
    from tasks.attacks.search import search_texts
    from tasks.desk.limits import check_limits
    from tasks.draw import draw_pictures
    from tasks.evaluation.score import look_at_pictures, measure
    from tasks.figures import Scores
    from tasks.prepare import prepare_concepts
    from tasks.train import assemble_bundle, missing_gates

    places = places_here()
    prepared = prepare_concepts(places, name, profile)
    check_limits(places, prepared)
    missing = missing_gates(places, prepared)
    if missing:
        names = ", ".join(gate.concept for gate in missing)
        raise ValueError(
            f"{len(missing)} of {len(prepared.gates)} gates are not trained yet ({names}); run `cpe erase` first"
        )
    bundle = assemble_bundle(places, prepared)
    search_texts(places, prepared)
    draw_pictures(places, prepared, None)
    draw_pictures(places, prepared, bundle)
    look_at_pictures(places, prepared, bundle)
    scores = Scores.of(places, measure(places, prepared, bundle))
    if as_json:
        print(json.dumps(scores.rows, indent=1))
        return
    rows = [row for row in scores.rows if row["phase"] == "after"]
    table(
        f"{prepared.concepts.name}: {len(prepared.gates)} erased, {len(prepared.concepts.kept)} kept",
        ("measure", "role", "group", "before", "after", "95 % interval", "pictures"),
        [
            (
                row["metric"].replace("_", " "),
                row["role"],
                row["group"],
                number(scores.value(row["metric"], "before", row["role"], row["group"]), row["unit"]),
                number(row["value"], row["unit"]),
                ""
                if row["low"] is None
                else f"{number(row['low'], row['unit'])} to {number(row['high'], row['unit'])}",
                str(row["count"]),
            )
            for row in rows
        ],
    )


command(generate)


@command
def neighbors(
    phrase: Annotated[str, typer.Argument(help="A word or phrase, such as tiger or 'claude monet'.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    vectors: Annotated[
        str | None, typer.Option(help="word2vec or GloVe file; default: the shipped 30,000 words.")
    ] = None,
) -> None:
    """List the nearest words of a phrase by Word2Vec, as anchors are found."""
    from cpe.words.neighbors import WordVectors

    table_of_words = WordVectors.load(vectors)
    found = table_of_words.vector(phrase)
    if not found.exact:
        missing = f"; {', '.join(found.missing)} unknown" if found.missing else ""
        print(f"{phrase!r} is no entry of its own: mean of {', '.join(found.found)}{missing}", file=sys.stderr)
    rows = [(n.name, f"{n.similarity:.3f}") for n in table_of_words.neighbors(phrase, count)]
    table(f"nearest to {phrase}", ("word", "cosine"), rows)


@command
def bench(
    model: Annotated[str, typer.Option(help="Base model: embedded, a folder, or a hub name.")] = "embedded",
    preset: Annotated[str, typer.Option(help="Training preset whose steps are measured.")] = "celebrity",
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions; medians are printed.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures for programs.")] = False,
) -> None:
    """Measure training and drawing on your own model and device, against the plain computation and no gates."""
    from benchmarks import inference, training
    from cpe.methods.pinpoint.method import PINPOINT

    config = PINPOINT.config(preset)
    places = places_here()
    pipe = places.loaded(model)
    device, tokens = str(pipe.device), pipe.tokenizer.model_max_length
    result = {"model": model, "preset": preset, "device": device, "threads": places.threads}
    trained = training.measure(pipe.unet, config=config, device=device, tokens=tokens, rounds=rounds)
    trained |= training.totals(trained, config)
    drawn = inference.measure(pipe.unet, device=device, rounds=rounds)
    if as_json:
        print(json.dumps({**result, "training": trained, "inference": drawn}, indent=1))
        return
    setting = {"shape": model, **result}
    print(training.report({**setting, **trained}), "", inference.report({**setting, **drawn}), sep="\n")


def run() -> None:
    """The program `cpe`."""
    with quick_end():
        app()


if __name__ == "__main__":
    run()
