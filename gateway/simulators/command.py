"""`tollway simulate openai | vllm`: one flag for each knob, made from the knobs so that none is missing."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
import typer

from gateway.simulators.knobs import InvalidKnob, Knobs
from gateway.simulators.running import SimulatorKind, SimulatorPortTaken, run_blocking

_PORTS = {SimulatorKind.OPENAI: 9100, SimulatorKind.VLLM: 9101}
_EXTRA_FLAGS = {
    "models": ("--model",),
    "max_concurrency": ("--max-concurrency", "--max-num-queued-reqs"),
}


def _build() -> typer.Typer:
    app = typer.Typer(help="Serve a stand-in for OpenAI or for a vLLM replica.", no_args_is_help=True)
    for kind, text in (
        (SimulatorKind.OPENAI, "GPT-4o and its relatives at OpenAI: chat, completions, embeddings, models."),
        (
            SimulatorKind.VLLM,
            "A Llama 4 replica under vLLM: chat, completions, models, health, load and metrics.",
        ),
    ):
        app.command(kind.value, help=text)(_command(kind))
    return app


def _command(kind: SimulatorKind) -> Callable[..., None]:
    def serve(**flags: Any) -> None:
        host, port = flags.pop("host"), flags.pop("port")
        for name in ("models", "refused_fields"):
            flags[name] = tuple(flags[name] or ())
        try:
            flags["usage"] = msgspec.json.decode(flags["usage"], type=dict[str, Any])
            run_blocking(kind, msgspec.convert(flags, Knobs), host, port)
        except (SimulatorPortTaken, InvalidKnob, msgspec.DecodeError) as exc:
            typer.echo(f"tollway simulate {kind}: {exc}", err=True)
            raise typer.Exit(1) from exc

    parameters = [*_address(_PORTS[kind]), *(_parameter(field) for field in msgspec.structs.fields(Knobs))]
    # typer reads the signature: this is what it sees instead of **flags.
    serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return serve


def _address(port: int) -> list[inspect.Parameter]:
    host_text = "Address to listen on. A simulator asks for no password: keep it on loopback."
    host_option = typer.Option("--host", help=host_text)
    port_option = typer.Option("--port", min=0, max=65535, help="0 takes a free one.")
    return [_keyword("host", str, host_option, "127.0.0.1"), _keyword("port", int, port_option, port)]


def _parameter(field: msgspec.structs.FieldInfo) -> inspect.Parameter:
    hint = get_type_hints(Knobs)[field.name]
    text = get_args(get_type_hints(Knobs, include_extras=True)[field.name])[1].description
    default = field.default
    flags = _EXTRA_FLAGS.get(field.name, (f"--{field.encode_name.replace('_', '-')}",))
    if hint is bool:
        flags = (f"{flags[0]}/--no-{flags[0][2:]}",)
    if default == ():
        hint, default = list[str], []
    if field.name == "usage":  # JSON
        hint, default = str, "{}"
    return _keyword(field.name, hint, typer.Option(*flags, help=text), default)


def _keyword(name: str, hint: Any, option: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, annotation=Annotated[hint, option], default=default)


simulate_app = _build()
