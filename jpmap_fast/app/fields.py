"""The fields of the page: of the request, and of every operator that is registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jpmap_fast as jf
from jpmap_fast.algorithms import ALGORITHMS
from jpmap_fast.app.asked import PAINTED, Asked
from jpmap_fast.operators.registry import (
    NamedOperator,
    Option,
    all_options,
    named_operator,
    operator_names,
)

if TYPE_CHECKING:
    from gradio.components import Component

OF_PICTURE, OF_PRIOR = "that of the picture", "that of the prior"


@dataclass
class Fields:
    """Components of the page.

    Attributes:
        picture, paint, operator, simulate, estimate, sigma, prior, method, starts, alpha, seed,
        background, draws: one each.
        texts: of options, by their names.
        files: of options that may be files, by their names.
    """

    picture: Component
    paint: Component
    operator: Component
    simulate: Component
    estimate: Component
    sigma: Component
    prior: Component
    method: Component
    starts: Component
    alpha: Component
    seed: Component
    background: Component
    draws: Component
    texts: dict[str, Component]
    files: dict[str, Component]

    @property
    def all(self) -> set[Component]:
        """All of them."""
        own = [value for value in vars(self).values() if not isinstance(value, dict)]
        return {*own, *self.texts.values(), *self.files.values()}

    def asked(self, values: Mapping[Any, Any]) -> Asked:
        """What the fields say.

        Args:
            values: of all components.

        Raises:
            ValueError: there is no picture.
        """
        if values[self.picture] is None:
            raise ValueError("picture: expected one, drop it first")
        operator, simulate = values[self.operator], bool(values[self.simulate])
        seen = visible(named_operator(operator), simulate)
        paint = (values[self.paint] or {}).get("layers", []) if PAINTED in seen else []
        settings = {"starts": _whole(values[self.starts]), "alpha": values[self.alpha]}
        return Asked(
            picture=Path(values[self.picture]),
            operator=operator,
            sigma="auto" if values[self.estimate] else str(values[self.sigma]),
            options={
                name: _typed(option, value)
                for name, option in _options().items()
                if name in seen
                and name in self.texts
                and (value := values[self.texts[name]]) not in (None, "")
                # A file in its place is meant.
                and not (name in self.files and values[self.files[name]])
            },
            files={
                name: Path(values[file])
                for name, file in self.files.items()
                if name in seen and values[file]
            },
            paint=tuple(paint),
            prior=_chosen(values[self.prior], OF_PICTURE),
            method=_chosen(values[self.method], OF_PRIOR),
            settings={name: value for name, value in settings.items() if value is not None},
            fields={
                "simulate": simulate,
                "seed": _whole(values[self.seed]) or 0,
                "background": float(values[self.background]),
            },
        )


def made(paint: Component, picture: Component) -> Fields:
    """The fields, where they stand on the page, below those two."""
    import gradio as gr

    first = named_operator(operator_names()[0])
    operator = gr.Dropdown(
        [(f"{name}: {named_operator(name).formula}", name) for name in operator_names()],
        value=first.name,
        label="What happened to it",
        filterable=False,
        elem_id="operator",
    )
    texts, files = _of_options(first)
    with gr.Row():
        estimate = gr.Checkbox(True, label="Estimate the noise", elem_id="estimate")
        sigma = gr.Number(
            10, label="Noise, in 255ths", minimum=1e-3, visible=False, elem_id="sigma"
        )
    with gr.Row():
        prior = gr.Dropdown([OF_PICTURE, *jf.available_priors()], label="Prior", elem_id="prior")
        method = gr.Dropdown([OF_PRIOR, *ALGORITHMS], label="Method", elem_id="method")
    with gr.Accordion("More", open=False):
        simulate = gr.Checkbox(
            False,
            label="The picture is clean: degrade it first, and report the PSNR",
            elem_id="simulate",
        )
        with gr.Row():
            starts = gr.Number(None, label="Starts", precision=0, minimum=1)
            alpha = gr.Number(None, label="For map-z: distance of x to G(z), in grey levels")
            draws = gr.Number(100, label="Draws of the uncertainty", precision=0, minimum=2)
        with gr.Row():
            seed = gr.Number(0, label="Seed", precision=0)
            background = gr.Number(1, label="Grey behind transparent pixels, 0 to 1")
    return Fields(
        picture=picture,
        paint=paint,
        operator=operator,
        simulate=simulate,
        estimate=estimate,
        sigma=sigma,
        prior=prior,
        method=method,
        starts=starts,
        alpha=alpha,
        seed=seed,
        background=background,
        draws=draws,
        texts=texts,
        files=files,
    )


def visible(operator: NamedOperator, simulate: bool) -> set[str]:
    """Options of an operator that make sense."""
    return {option.name for option in operator.options if simulate or not option.draws}


def shown_for(fields: Fields, operator: str, simulate: bool) -> Iterator[tuple[Component, bool]]:
    """Each component of an option, and whether it is seen."""
    seen = visible(named_operator(operator), simulate)
    for group in (fields.texts, fields.files):
        for name, component in group.items():
            yield component, name in seen
    yield fields.paint, PAINTED in seen


def _of_options(first: NamedOperator) -> tuple[dict[str, Component], dict[str, Component]]:
    """A field for each option's text or number, and one for its file."""
    import gradio as gr

    texts: dict[str, Component] = {}
    files: dict[str, Component] = {}
    seen = visible(first, simulate=False)
    for name, option in _options().items():
        shape: dict[str, Any] = {"visible": name in seen, "elem_id": name}
        label = name.replace("_", " ").capitalize()
        if option.kind is not Path:
            texts[name] = _text_of(option, label, shape)
        if option.takes_file:
            label = f"{label}: {option.help}" if option.kind is Path else f"{label} of a file"
            files[name] = gr.File(label=label, height=120, **{**shape, "elem_id": f"{name}-file"})
    return texts, files


def _text_of(option: Option, label: str, shape: dict[str, Any]) -> Component:
    import gradio as gr

    if option.choices:
        return gr.Dropdown(
            list(option.choices), value=option.default, label=label, info=option.help, **shape
        )
    if option.kind in (int, float):
        return gr.Number(
            option.default,
            label=label,
            info=option.help,
            precision=0 if option.kind is int else None,
            **shape,
        )
    return gr.Textbox(option.default or "", label=label, info=option.help, **shape)


def _options() -> dict[str, Option]:
    return {option.name: option for option in all_options()}


def _typed(option: Option, value: Any) -> Any:
    """A number of the option's kind, as JavaScript has but one."""
    if option.kind is int and float(value).is_integer():
        return int(value)
    return float(value) if option.kind is float else value


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _chosen(value: Any, nobody: str) -> str | None:
    return None if value in (None, nobody) else str(value)
