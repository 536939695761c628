"""Models as OpenAI's API describes them, with what a client wants to know before it asks."""

from typing import Any

from gateway.proxy.reach import ReachableModel


def model_object(found: ReachableModel) -> dict[str, Any]:
    """OpenAI's model object, and beside it what the deployments that may answer can do.

    A request goes to one that can do all that it asks for, so sizes are the largest, and lists are of what
    any of them has. `shutdown_date` stands there where an end is known.
    """
    model, deployments = found.model, found.deployments
    described: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "tollway",
        "context_length": max(item.context_tokens for item in deployments),
        "max_output_tokens": max(item.max_output_tokens for item in deployments),
        "endpoints": sorted({str(api) for item in deployments for api in item.serves}),
        "input_modalities": sorted({str(kind) for item in deployments for kind in item.accepts}),
        "capabilities": sorted({str(one) for item in deployments for one in item.supports}),
    }
    if found.last_day is not None:
        described["shutdown_date"] = found.last_day.isoformat()
    return described
