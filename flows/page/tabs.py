"""The page's other tabs: gallery, comparison of versions, batches, results, promotion."""

from typing import Any

import gradio as gr

from flows.page import shown
from flows.page.answers import Answers, setting_of
from flows.page.wiring import QUICK, slot, slow


def gallery_tab(answers: Answers, setting: list[Any], prompts: gr.State, prompt: gr.Textbox, tabs: gr.Tabs) -> None:
    """A list's erased and kept prompts, before beside after; who chooses a picture goes on with its prompt in `Try`."""
    with gr.Tab("Gallery", id="gallery"):
        with gr.Row():
            role = gr.Radio(["erased", "kept"], value="erased", label="Prompts")
            seed = gr.Number(label="Seed", value=0, precision=0, minimum=0)
        draw = gr.Button("Draw the gallery", variant="primary")
        message = slot()
        gallery = _gallery("Before on the left, after on the right; choose one to try it")

    def drawn(role: str, seed: float | None, *given: Any, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        return answers.gallery(role, seed, setting_of(*given), _counting(progress))

    def tried(asked: list[str], event: gr.SelectData) -> tuple[Any, ...]:
        return asked[event.index], gr.update(selected="try")

    draw.click(drawn, [role, seed, *setting], [message, gallery, prompts], **slow(gallery))
    gallery.select(tried, prompts, [prompt, tabs], **QUICK)


def compare_tab(answers: Answers) -> list[gr.Dropdown]:
    """Any two versions on one prompt, their gates and metrics; returns the two choices."""
    with gr.Tab("Compare", id="compare"):
        with gr.Row():
            both = [gr.Dropdown(label=label, interactive=True) for label in ("One version", "Another version")]
        with gr.Row():
            prompt = gr.Textbox(label="Prompt", value="a picture of a rose", max_length=2000)
            seed = gr.Number(label="Seed", value=0, precision=0, minimum=0)
        button = gr.Button("Compare", variant="primary")
        message, pictures, tables = slot(), slot("One prompt by both versions, and without."), slot()
    asked: dict[str, Any] = {"inputs": [prompt, seed, *both], "outputs": [message, pictures, tables], **slow(pictures)}
    button.click(answers.compare, **asked)
    prompt.submit(answers.compare, **asked)
    return both


def batch_tab(answers: Answers, setting: list[Any]) -> None:
    """The prompts of a CSV file."""
    with gr.Tab("Batch", id="batch"):
        file = gr.File(label="CSV file: a column prompt, perhaps a column seed", file_types=[".csv"], height=140)
        draw = gr.Button("Draw the batch", variant="primary")
        message = slot()
        archive = gr.File(label="Download: all pictures and a table", interactive=False, height=90)
        gallery = _gallery("Before on the left, after on the right")

    def drawn(path: str | None, *given: Any, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        return answers.batch(path, setting_of(*given), _counting(progress))

    draw.click(drawn, [file, *setting], [message, gallery, archive], **slow(gallery))


def results_tab(answers: Answers) -> gr.Dropdown:
    """A list's results, bars, attacks and history; returns the choice of the list."""
    with gr.Tab("Results", id="results") as tab:
        which = gr.Dropdown(label="List", interactive=True)
        message, tables = slot(), slot()
    tab.select(answers.results, which, [message, tables], **QUICK)
    which.change(answers.results, which, [message, tables], **QUICK)
    return which


def promote_tab(answers: Answers) -> tuple[gr.Dropdown, gr.HTML]:
    """What changes what others are served; returns the choice of the version, and what was done."""
    with gr.Tab("Promote", id="promote"):
        version = gr.Dropdown(label="Version", interactive=True)
        reason = gr.Textbox(label="Reason", info="For people; kept in the registry.", max_length=500)
        typed = gr.Textbox(label="Confirmation", max_length=200)
        with gr.Row():
            promote = gr.Button("Make it champion", variant="stop")
            back = gr.Button("Roll back to the previous champion", variant="stop")
        message, done = slot(), slot()

    def asks(reference: str | None) -> Any:
        model = (reference or "cpe-emoji/3").rpartition("/")[0]
        return gr.update(info=f"Type {reference or 'the version'} to promote it, or {model} to roll back.")

    def told(answer: tuple[str, str | None]) -> tuple[Any, ...]:
        wrong, text = answer
        return (wrong, shown.message(text), "") if text else (wrong, "", gr.skip())

    for button, act in ((promote, answers.promote), (back, answers.take_back)):
        button.click(
            lambda *given, act=act: told(act(*given)), [version, typed, reason], [message, done, typed], **QUICK
        )
    version.change(asks, version, typed, **QUICK)
    return version, done


def _gallery(label: str) -> gr.Gallery:
    gr.HTML(f'<p class="cpe-note">{label}.</p>')
    return gr.Gallery(
        label=label,
        show_label=False,
        columns=3,
        fit_columns=False,
        height="auto",
        object_fit="contain",
        allow_preview=False,
        format="png",
        buttons=[],
        interactive=False,
        elem_classes="cpe-gallery",
    )


def _counting(progress: gr.Progress) -> Any:
    return lambda done, total: progress((done, total), desc="drawing", unit="prompts")
