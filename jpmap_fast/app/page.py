"""The page, and the address it is shown at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from jpmap_fast._messages import FieldError, one_line
from jpmap_fast.app.doors import Doors
from jpmap_fast.app.fields import Fields, made, shown_for
from jpmap_fast.app.painting import preview
from jpmap_fast.app.results import Results, made_results
from jpmap_fast.app.settings import PageSettings
from jpmap_fast.app.work import Shown, looked_at, restored, sampled

if TYPE_CHECKING:
    import gradio as gr

# Uploads and results are looked for every so many seconds, and deleted when they are as old.
EVERY, OLD = 600, 3600
TITLE = "jpmap_fast"
WORDS = "Drop a picture, say what happened to it, and see what it may have been."


def page(settings: PageSettings) -> gr.Blocks:
    """The page as gradio has it, not shown yet.

    Raises:
        ImportError: gradio is not installed.
    """
    gr = _gradio()
    # It tells nobody that it runs.
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(EVERY, OLD)) as blocks:
        gr.Markdown(f"# {TITLE}\n{WORDS}")
        with gr.Row():
            with gr.Column():
                picture = gr.File(label="Picture", elem_id="picture", height=120)
                seen = gr.Textbox(label="It is", interactive=False, visible=False, elem_id="seen")
                paint = gr.ImageEditor(
                    label="Paint over what is missing, or drop a mask below",
                    elem_id="paint",
                    visible=False,
                    type="numpy",
                    format="png",
                    sources=(),
                    transforms=(),
                    layers=False,
                    brush=gr.Brush(colors=["#d62728"], color_mode="fixed", default_size=12),
                )
                fields = made(paint, picture)
                with gr.Row():
                    restore = gr.Button("Restore", variant="primary", elem_id="restore")
                    sample = gr.Button("How sure is that?", elem_id="sample")
            results = made_results()
        _connect(settings, fields, seen, restore, sample, results)
    return blocks


@contextmanager
def shown_at(settings: PageSettings) -> Iterator[str]:
    """The address of the page, which is there within this.

    Raises:
        ImportError: gradio is not installed. OSError: the port is taken.
    """
    with _own_folder(settings.folder):
        gr = _gradio()
        blocks = page(settings)
        blocks.queue(max_size=settings.waiting, default_concurrency_limit=1)
        plain = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
        _, address, _ = blocks.launch(
            server_name=settings.host,
            server_port=settings.port or None,
            max_file_size=settings.megabytes * 1_000_000,
            theme=plain,  # nothing is loaded from elsewhere
            footer_links=[],
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            allowed_paths=[],
            quiet=True,
            prevent_thread_lock=True,
            app_kwargs=Doors.as_option(),
        )
        try:
            yield address
        finally:
            blocks.close(verbose=False)


def serve(settings: PageSettings, told: Callable[[str], None]) -> None:
    """Show the page until the process is interrupted.

    Args:
        settings: of the page.
        told: called with its address.
    """
    import signal
    import threading

    # To be told to end is to be interrupted: uploads are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with shown_at(settings) as address:
        told(address)
        threading.Event().wait()


def _connect(
    settings: PageSettings, fields: Fields, seen: Any, restore: Any, sample: Any, results: Results
) -> None:
    """What happens when something is dropped, chosen or pressed."""
    gr = _gradio()
    private: dict[str, Any] = {"api_visibility": "private"}

    def dropped(picture: str | None) -> tuple[Any, Any]:
        if picture is None:
            return gr.update(visible=False), None
        with _told(Path(picture).parent):
            values, told = looked_at(Path(picture), settings)
        return gr.update(value=told, visible=True), preview(values)

    def chosen(operator: str, simulate: bool) -> list[Any]:
        return [gr.update(visible=on) for _, on in shown_for(fields, operator, simulate)]

    def do_restore(values: dict[Any, Any], progress: Any = gr.Progress()) -> dict[Any, Any]:  # noqa: B008
        def passes(done: int, total: int) -> None:
            progress((done, total), desc="Restoring")

        found = _run(
            lambda folder: restored(fields.asked(values), folder, settings, passes), settings
        )
        return results.of_restoration(found)

    def do_sample(values: dict[Any, Any]) -> dict[Any, Any]:
        draws = int(values[fields.draws] or 0)
        found = _run(
            lambda folder: sampled(fields.asked(values), draws, folder, settings), settings
        )
        return results.of_draws(found)

    fields.picture.change(dropped, fields.picture, [seen, fields.paint], **private)
    parts = [part for part, _ in shown_for(fields, fields.operator.value, False)]
    for choice in (fields.operator, fields.simulate):
        choice.change(chosen, [fields.operator, fields.simulate], parts, **private)
    fields.estimate.change(
        lambda estimated: gr.update(visible=not estimated), fields.estimate, fields.sigma, **private
    )
    # One at a time, of both kinds: each takes all cores.
    work: dict[str, Any] = {**private, "concurrency_id": "work", "concurrency_limit": 1}
    restore.click(do_restore, fields.all, list(results.all), **work)
    sample.click(do_sample, fields.all, list(results.all), **work)


def _run(work: Callable[[Path], Shown], settings: PageSettings) -> Shown:
    """Work in a folder of its own, whose files the page takes before it goes."""
    results = settings.folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(dir=results))
    with _told(folder):
        found = work(folder)
    _forget(results)
    return found


def _forget(results: Path, kept: int = 8) -> None:
    """Remove all but the newest folders; what was shown of the others is in the page's own."""
    import shutil

    folders = sorted(results.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for folder in folders[:-kept]:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Errors that a person can mend are shown on the page, in its own words.

    Args:
        folder: of the files, which is no affair of theirs.
    """
    gr = _gradio()
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        text = str(error)
        if isinstance(error, FieldError):
            text = error.told(lambda name: name.replace("_", " "))
        raise gr.Error(one_line(text).replace(f"{folder}/", ""), duration=None) from error


@contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    """Gradio keeps uploads there."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ImportError(
            "the page needs gradio: pip install 'jpmap-fast[app]', or pip install gradio"
        ) from error
    return gradio
