"""The export: the mix of the sliders as a file for other programs. `mixer.export` knows what is in the files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from mixer.errors import InvalidValue, MixerError, Unsupported
from mixer.ui.state.decouple import mix_of
from mixer.ui.state.page_state import PageState, read_state
from mixer.ui.web import script

if TYPE_CHECKING:
    from mixer.desk import Desk
    from mixer.ui.live.browsers import BrowserSessions

KINDS = ("mix", "adapter", "merged")
DTYPES = ("float32", "bfloat16", "float16")
MOST_RANK = 4096
MOST_BYTES = 2 * 10**9  # of a merged model that the page makes; larger ones are for the command line

_TEMPLATE = """
<form class="export-panel">
  <fieldset>
    <legend>What to write</legend>
    <label><input type="radio" name="export-kind" value="mix" checked>
      <span><b>Mix</b> <small>a YAML file for --mix, with rewards and their budget</small></span></label>
    <label><input type="radio" name="export-kind" value="adapter">
      <span><b>PEFT adapter</b> <small>one LoRA that is this mix, for peft and this desk</small></span></label>
    <label><input type="radio" name="export-kind" value="merged">
      <span><b>Merged model</b> <small>base and mix as one model, for transformers</small></span></label>
  </fieldset>
  <div class="export-options">
    <label data-for="adapter">Rank
      <input type="number" name="rank" min="1" max="4096" step="1" placeholder="exact"></label>
    <label data-for="adapter merged">Precision
      <select name="dtype"><option>float32</option><option>bfloat16</option><option>float16</option></select></label>
  </div>
  <div class="export-run">
    <button type="submit" class="run">Export</button>
    <p role="status"></p>
  </div>
</form>
"""


@dataclass(frozen=True)
class ExportRequest:
    """What a client asks for: the state to export, and one of `KINDS`; a `rank` of None is exact."""

    state: PageState
    kind: str
    rank: int | None
    dtype: str


def read_request(posted: object, desk: Desk) -> ExportRequest:
    """What a client posted, checked: `{state, kind, rank, dtype}`.

    Raises:
        MixerError: it is not as the page sends it.
    """
    if not isinstance(posted, dict):
        raise InvalidValue("The request is not an object.", "Send {state, kind, rank, dtype}.")
    kind, rank, dtype = posted.get("kind"), posted.get("rank"), posted.get("dtype", "float32")
    if kind not in KINDS:
        raise InvalidValue("There is no such export.", f"Choose one of {', '.join(KINDS)}.")
    if dtype not in DTYPES:
        raise InvalidValue("There is no such precision.", f"Choose one of {', '.join(DTYPES)}.")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MOST_RANK):
        raise InvalidValue(f"The rank must be a whole number from 1 to {MOST_RANK}.", "Leave it empty for exact.")
    return ExportRequest(read_state(posted.get("state"), desk.attributes, desk.rewards), kind, rank, dtype)


def write(desk: Desk, request: ExportRequest, folder: Path) -> tuple[Path, str]:
    """Writes the file into `folder`; returns its path, and one or two sentences about it.

    Raises:
        MixerError: the mix cannot be written so.
    """
    from mixer.export import export_adapter, export_merged
    from mixer.files.mix_file import save_mix

    state = request.state
    mix = mix_of(desk, state)
    left = "" if state.formula == PageState().formula else " The formula is not in it."
    if request.kind == "mix":
        path = save_mix(mix, folder / "mix.yaml", state.steers)
        return path, f"The mix, as a file for --mix.{left}"
    left += " The rewards are not in it: they act while the text is written." if state.steers.heads else ""
    if request.kind == "adapter":
        done = export_adapter(desk, mix, folder / "adapter", request.rank, request.dtype)
        about = f"Rank {done.rank}, retained energy {done.energy:.4f}.{left}"
    else:
        size = desk.base_model.num_parameters() * (4 if request.dtype == "float32" else 2)
        if size > MOST_BYTES:
            raise Unsupported(
                f"The merged model would be {size / 1e9:.1f} GB, too large to make here.",
                "On the desk's own machine, run `python -m mixer export merged`.",
            )
        export_merged(desk, mix, folder / "merged", request.dtype)
        about = f"For transformers, with its tokenizer.{left}"
    kind = request.kind
    path = Path(shutil.make_archive(str(folder / kind), "zip", folder, kind))
    return path, about


def panel(desk: Desk, browsers: BrowserSessions) -> None:
    """The form, and the button that downloads the file."""
    form = gr.HTML(
        value={},  # pyright: ignore[reportArgumentType]  (any JSON value is passed on)
        html_template=_TEMPLATE,
        js_on_load=script("export.js"),
        apply_default_css=False,
        elem_id="export-panel",
    )
    button = gr.DownloadButton("Download", visible="hidden", elem_id="export-file", size="sm", variant="primary")
    form.submit(
        _export(desk),
        form,
        [form, button],
        concurrency_limit=1,
        trigger_mode="once",
        show_progress="hidden",
        api_visibility="private",
    )


def _export(desk: Desk) -> Callable[[Any], Iterator[tuple[Any, Any]]]:
    def export(posted: Any) -> Iterator[tuple[Any, Any]]:
        yield {"state": "running"}, gr.DownloadButton(visible="hidden")
        with tempfile.TemporaryDirectory(prefix="mixing-desk-") as folder:
            try:
                path, about = write(desk, read_request(posted, desk), Path(folder))
            except MixerError as error:
                yield {"state": "error", "error": str(error)}, gr.skip()
                return
            size = path.stat().st_size / 1e6
            label = f"{path.name} ({size:.1f} MB)" if size >= 0.1 else path.name
            # Gradio copies the file into its cache, which it clears by itself (see `page.CACHE`).
            yield {"state": "done", "about": about}, gr.DownloadButton(label, value=path, visible=True)

    return export
