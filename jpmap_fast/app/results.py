"""The part of the page that shows what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jpmap_fast.app.work import Shown

if TYPE_CHECKING:
    from gradio.components import Component


@dataclass
class Results:
    """Components of the page."""

    slider: Component
    told: Component
    spread: Component
    spread_told: Component
    files: Component
    command: Component
    python: Component

    @property
    def all(self) -> set[Component]:
        """All of them."""
        return set(vars(self).values())

    def of_restoration(self, found: Shown) -> dict[Component, Any]:
        """What is shown of a restoration; of the one before nothing is left."""
        import gradio as gr

        return {
            self.slider: (found.before, found.after),
            self.told: found.told,
            self.spread: gr.update(value=None, visible=False),
            self.spread_told: gr.update(value="", visible=False),
            **self._home(found),
        }

    def of_draws(self, found: Shown) -> dict[Component, Any]:
        """What is shown of draws, below the restoration."""
        import gradio as gr

        return {
            self.spread: gr.update(value=found.spread, visible=True),
            self.spread_told: gr.update(value=found.told, visible=True),
            **self._home(found),
        }

    def _home(self, found: Shown) -> dict[Component, Any]:
        import gradio as gr

        return {
            self.files: gr.update(value=[str(path) for path in found.files], visible=True),
            self.command: gr.update(value=found.recipe.command, visible=True),
            self.python: gr.update(value=found.recipe.python, visible=True),
        }


def made_results() -> Results:
    """The components, in a column."""
    import gradio as gr

    with gr.Column():
        slider = gr.ImageSlider(
            label="Before and after", type="numpy", format="png", elem_id="slider", max_height=700
        )
        told = gr.Textbox(label="How it went", interactive=False, lines=2, elem_id="told")
        spread = gr.Image(
            label="Where it is unsure", format="png", visible=False, elem_id="spread", height=400
        )
        spread_told = gr.Textbox(
            label="How unsure", interactive=False, lines=2, visible=False, elem_id="spread-told"
        )
        files = gr.File(
            label="Download",
            file_count="multiple",
            interactive=False,
            visible=False,
            elem_id="files",
        )
        command, python = (
            gr.Code(
                label=f"The same {where}",
                language=language,
                interactive=False,
                wrap_lines=True,
                lines=1,
                max_lines=15,
                visible=False,
                elem_id=name,
            )
            for where, language, name in (
                ("on the command line", "shell", "command"),
                ("in Python", "python", "python"),
            )
        )
    return Results(slider, told, spread, spread_told, files, command, python)
