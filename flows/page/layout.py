"""The page's layout, in Gradio: its parts, and which answer fills which of them."""

from typing import Any

import gradio as gr

from flows.page import shown
from flows.page.answers import NOTHING, Answers, list_of, setting_of
from flows.page.tabs import batch_tab, compare_tab, gallery_tab, promote_tab, results_tab
from flows.page.wiring import LATEST, QUICK, slot, slow

ALL = "all gates"


def build(answers: Answers) -> gr.Blocks:
    """Lays the page out."""
    bench = answers.bench
    with gr.Blocks(title="CPE: try erasing", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(
            f'<div class="cpe-head"><h1>Try erasing</h1><p>{shown.escape(bench.base_model)}, profile '
            f"{shown.escape(bench.profile.name)}: {bench.profile.steps} steps</p></div>"
        )
        version = gr.Dropdown(label="Version", info="What erases: in Try, Gallery and Batch.", interactive=True)
        about = slot()
        known, strengths, prompts = gr.State(()), gr.State({}), gr.State([])
        with gr.Tabs(selected="try", overflow_behavior="wrap") as tabs:
            with gr.Tab("Try", id="try"), gr.Row(elem_id="try"):
                with gr.Column(elem_id="ask"):
                    prompt = gr.Textbox(label="Prompt", value="a picture of a rose", max_length=2000, autofocus=True)
                    seed = gr.Number(label="Seed", value=0, precision=0, minimum=0)
                    draw = gr.Button("Draw", variant="primary")
                with gr.Column(elem_id="show"):
                    message, pictures, heat = slot(), slot("Before and after appear here, from one seed."), slot()
                with gr.Column(elem_id="set"):
                    on, gate, strength, told, as_trained = _gates()
            setting = [version, on, known, strengths]
            gallery_tab(answers, setting, prompts, prompt, tabs)
            chosen = compare_tab(answers)
            batch_tab(answers, setting)
            which = results_tab(answers)
            promoted, done = promote_tab(answers)

        def drawn(asked: str, number: float | None, *given: Any) -> tuple[Any, ...]:
            return answers.draw(asked, number, setting_of(*given))

        def gates_of(reference: str | None) -> tuple[Any, ...]:
            wrong, names, settable = answers.gates(reference)
            names, settable = names or (), bool(settable)
            if reference is None:
                wrong = shown.message(NOTHING)
            elif not wrong and not settable:
                wrong = shown.message("This version's method has no gates: it erases all its concepts as trained.")
            return (
                wrong,
                names,
                {},
                gr.update(choices=list(names), value=list(names), interactive=settable),
                gr.update(choices=[ALL, *names], value=ALL, interactive=settable),
                gr.update(value=1, interactive=settable),
                "",
            )

        def opened() -> tuple[Any, ...]:
            choices, (first, other) = answers.choices(), answers.pair()
            lists = answers.lists()
            return (
                gr.update(choices=choices, value=first),
                *(gr.update(choices=choices, value=value) for value in (first, other, first)),
                gr.update(choices=lists, value=list_of(first)),
                *gates_of(first),
            )

        def renewed(*values: str | None) -> tuple[Any, ...]:
            choices = answers.choices()
            return tuple(gr.update(choices=choices, value=value) for value in values)

        def strengthened(name: str, value: float, names: tuple[str, ...], before: dict[str, float]) -> tuple[Any, ...]:
            now = dict.fromkeys(names, value) if name == ALL else {**before, name: value}
            return now, shown.strengths(now)

        def strength_of(name: str, before: dict[str, float]) -> float:
            return before.get(name, 1.0) if name != ALL else 1.0

        asked = {
            "fn": drawn,
            "inputs": [prompt, seed, *setting],
            "outputs": [message, pictures, heat],
            **slow(pictures),
        }
        draw.click(**asked)
        prompt.submit(**asked)
        gates = [about, known, strengths, on, gate, strength, told]
        page.load(opened, None, [version, *chosen, promoted, which, *gates], **QUICK)
        version.input(gates_of, version, gates, **QUICK)
        as_trained.click(gates_of, version, gates, **QUICK)
        strength.input(strengthened, [gate, strength, known, strengths], [strengths, told], **LATEST)
        gate.input(strength_of, [gate, strengths], strength, **QUICK)
        done.change(renewed, [version, *chosen, promoted], [version, *chosen, promoted], **QUICK)
    return page


def _gates() -> tuple[gr.CheckboxGroup, gr.Dropdown, gr.Slider, gr.HTML, gr.Button]:
    with gr.Accordion("Gates", open=True):
        on = gr.CheckboxGroup(label="Switched on", info="One that is off erases nothing, and leaves room for others.")
        gate = gr.Dropdown(label="Strength of", choices=[ALL], value=ALL, interactive=True)
        strength = gr.Slider(0, 2, 1, step=0.05, label="Strength", info="1 as trained, 0 not at all.")
        told = slot()
        as_trained = gr.Button("All on, as trained", size="sm")
    return on, gate, strength, told, as_trained
