"""Which fields an object may have, by the models of the `kubernetes` client.

`kubectl apply` and `create` ask for it (`fieldValidation=Strict`), since the OpenAPI document says
that this server looks. The models are imported when the first such request comes.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from aftershock.lab.kubernetes.resources import Resource
from aftershock.lab.kubernetes.status import bad_request

_OF = re.compile(r"^([Ll]ist|[Dd]ict)[\[(](?:str, ?)?(.+)[\])]$")
_EVENTS = {"": "CoreV1Event", "events.k8s.io": "EventsV1Event"}


def models() -> Any:
    """The module of all models; a quarter of a second the first time."""
    return importlib.import_module("kubernetes.client.models")


def check_fields(resource: Resource, item: Any) -> None:
    """400 that names every unknown field, in the words of a real server."""
    name = f"{resource.version.upper()}{resource.kind}"
    if resource.plural == "events":
        name = _EVENTS[resource.group]
    if unknown := [f'unknown field "{path}"' for path in _unknown(name, item, "")]:
        raise bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a '
            f"{resource.kind}: strict decoding error: {', '.join(unknown)}"
        )


def _unknown(kind: str, value: Any, path: str) -> Iterator[str]:
    if found := _OF.match(kind):
        if found[1].lower() == "list" and isinstance(value, list):
            for index, one in enumerate(value):
                yield from _unknown(found[2], one, f"{path}[{index}]")
        elif found[1].lower() == "dict" and isinstance(value, Mapping):
            for key, one in value.items():
                yield from _unknown(found[2], one, f"{path}.{key}")
        return
    model = getattr(models(), kind, None)
    if model is None or not isinstance(value, Mapping):
        return
    types = {model.attribute_map[name]: told for name, told in model.openapi_types.items()}
    for key, one in value.items():
        where = f"{path}.{key}" if path else str(key)
        if key.startswith("$"):  # how a patch is meant
            continue
        if key not in types:
            yield where
        else:
            yield from _unknown(types[key], one, where)
