"""Opens the desk's page: `python app.py`. Also the entry of a Hugging Face Space."""

from __future__ import annotations

import argparse
import os
import sys
import threading

# Before Gradio is imported: it asks no other machine for anything.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # it goes over all that it remembers after every run
# Before torch is imported: one core stays free for the server and the browser. With all of them in the model's threads,
# a slider waits for a core, and threads that wait for one another on a busy machine write a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))
# Before torch too: on a ZeroGPU Space this process has no GPU and forks others that do, see mixer/ui/live/zero_gpu.py.
if os.environ.get("SPACES_ZERO_GPU"):
    os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")  # what `spaces` makes of torch holds in this thread alone
    import spaces  # noqa: F401  # pyright: ignore[reportMissingImports]  (a Space has it)


def main(argv: list[str] | None = None) -> int:
    """Serves the page until interrupted; 2 for bad input, with one line on stderr that says what to do."""
    from mixer.cli.options import add_sources, formula_sources, read_sources

    parser = argparse.ArgumentParser(description="A mixing desk for language models, in the browser.")
    parser.add_argument("--base", help="folder or hub name of the base model (default: the embedded one)")
    parser.add_argument("--anchors", help="folder of anchors (default: the shipped ones)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--quantize", help="nf4 or int8: a smaller base in memory, through bitsandbytes")
    parser.add_argument("--device-map", help="auto, balanced or sequential: spread the base over several devices")
    formula_sources(parser)
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="also open a public link through Gradio's relay")
    args = parser.parse_args(argv)
    if args.port is not None and not 1 <= args.port <= 65535:
        parser.error(f"--port {args.port} is no port: give a number from 1 to 65535")

    from mixer import Desk, MixerError
    from mixer.process import give_back_memory, quiet_libraries

    quiet_libraries()
    give_back_memory()
    try:
        # What cannot be used is left out and named on the page; a folder of the user's with nothing in it is refused.
        desk = Desk.load(
            args.base,
            anchors=args.anchors,
            device=args.device,
            dtype=args.dtype,
            strict=False,
            quantize=args.quantize,
            device_map=args.device_map,
        )
        add_sources(desk, args)
        sources = read_sources(args)
    except MixerError as error:
        return _refuse(str(error))

    if args.anchors is not None and not (desk.attributes or desk.rewards):
        return _refuse(next(iter(desk.problems), f"There is no anchor in {args.anchors}."))

    from mixer.ui import DeskSource, build, launch
    from mixer.ui.live.zero_gpu import is_zero_gpu

    load = {name: getattr(args, name) for name in ("base", "anchors", "device", "dtype", "quantize", "device_map")}
    origin = DeskSource({name: value for name, value in load.items() if value not in (None, "auto")}, sources)

    if not is_zero_gpu():
        threading.Thread(target=desk.warm_up, daemon=True).start()
    try:
        launch(build(desk, origin=origin), host=args.host, port=args.port, share=args.share)
    except OSError as error:
        return _refuse(f"The page could not be served: {str(error).splitlines()[0]}")
    except KeyboardInterrupt:
        pass
    return 0


def _refuse(message: str) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
