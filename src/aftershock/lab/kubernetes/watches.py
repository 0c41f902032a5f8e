"""Watches: a stream of what happens to the objects a client asked about."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from aftershock.lab.kubernetes import status
from aftershock.lab.kubernetes.requests import Target, matcher, number, whole
from aftershock.lab.kubernetes.selectors import Matcher
from aftershock.lab.kubernetes.status import Cause, Refusal
from aftershock.lab.kubernetes.store import Change, Object, Store
from aftershock.lab.kubernetes.tables import partial, table

_BOOKMARK_EVERY_S = 60.0
_LAST_BOOKMARK_S = 2.0  # before the end, so that the next watch begins where this one knew all
_LONGEST_S = 3600.0
_INITIAL_END = {"k8s.io/initial-events-end": "true"}


class _Stream:
    """Writes events in the form the client wants."""

    def __init__(self, request: web.Request, response: web.StreamResponse, target: Target) -> None:
        self._response, self._target = response, target
        accept = request.headers.get("Accept", "")
        self._as_table = "as=Table" in accept
        self._as_partial = "as=PartialObjectMetadata" in accept
        self._include = request.query.get("includeObject", "Metadata")
        self._columns_told = False

    async def send(self, kind: str, item: Object) -> None:
        if kind not in ("ERROR", "BOOKMARK"):
            item = self._shown(item)
        event = json.dumps({"type": kind, "object": item}, separators=(",", ":"))
        await self._response.write(event.encode() + b"\n")

    def _shown(self, item: Object) -> Object:
        if self._as_table:
            meta = {"resourceVersion": item["metadata"]["resourceVersion"]}
            first, self._columns_told = not self._columns_told, True
            return table(self._target.resource, [item], meta, self._include, with_columns=first)
        return partial(item) if self._as_partial else whole(self._target.resource, item)

    async def bookmark(self, version: int, initial: bool = False) -> None:
        resource = self._target.resource
        meta: dict[str, Any] = {"resourceVersion": str(version)}
        if initial:
            meta["annotations"] = _INITIAL_END
        head: Object = {"kind": resource.kind, "apiVersion": resource.api_version}
        if self._as_table:
            head = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
            head |= {"columnDefinitions": None, "rows": []}
        await self.send("BOOKMARK", head | {"metadata": meta})


async def serve_watch(
    request: web.Request, store: Store, target: Target, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer a watch until its timeout, or until the client has gone."""
    query = request.query
    matches = matcher(target, query)
    version = _version(query)
    _check(query)
    ends_in_s = min(_LONGEST_S, number(query.get("timeoutSeconds") or "0") or _LONGEST_S)
    initial = query.get("sendInitialEvents") == "true" or version is None
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/json"})
    response.enable_chunked_encoding()
    stream = _Stream(request, response, target)
    try:
        changes = store.follow(target.resource, None if initial else version)
    except Refusal as refusal:
        await response.prepare(request)
        await stream.send("ERROR", refusal.status())
        await response.write_eof()
        return response
    try:
        # Between `follow` and this listing nothing else runs: no change is lost or told twice.
        found = store.all_of(target.resource, target.namespace) if initial else []
        begun_at = store.version
        writer = await response.prepare(request)
        # aiohttp would keep the head back until the first event: a client could not tell a quiet
        # watch from a server that doesn't answer.
        getattr(writer, "send_headers", lambda: None)()
        for item in filter(matches, found):
            await stream.send("ADDED", item)
        bookmarks = query.get("allowWatchBookmarks") in ("1", "true")
        if query.get("sendInitialEvents") == "true" and bookmarks:
            await stream.bookmark(begun_at, initial=True)
        await _follow(stream, changes, matches, store, ends_in_s, bookmarks)
        await response.write_eof()
    except ConnectionError:
        pass
    finally:
        store.unfollow(changes)
    return response


def _version(query: Mapping[str, str]) -> int | None:
    """The version to watch from; None: from now, with what is there told first."""
    text = query.get("resourceVersion", "")
    if text in ("", "0"):
        return None
    if not text.isdigit():
        message = (
            f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": '
            "invalid syntax"
        )
        raise Refusal(500, "", message)
    return int(text)


def _check(query: Mapping[str, str]) -> None:
    match = query.get("resourceVersionMatch", "")
    causes = []
    where = "resourceVersionMatch"
    if "sendInitialEvents" in query and match != "NotOlderThan":
        told = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        causes.append(Cause("FieldValueForbidden", told, where))
    elif match and "sendInitialEvents" not in query:
        told = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is "
        causes.append(Cause("FieldValueForbidden", told + "provided", where))
    if causes:
        raise status.invalid("ListOptions", "meta.k8s.io", "", causes)


async def _follow(
    stream: _Stream,
    changes: asyncio.Queue[Change],
    matches: Matcher,
    store: Store,
    ends_in_s: float,
    bookmarks: bool,
) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + ends_in_s
    due = _next_bookmark(loop.time(), end)
    while (now := loop.time()) < end:
        if now >= due:
            due = _next_bookmark(now, end)
            if bookmarks:
                await stream.bookmark(store.version)
        try:
            async with asyncio.timeout_at(due):
                change = await changes.get()
        except TimeoutError:
            continue
        event = _event(change, matches)
        if event:
            await stream.send(*event)


def _next_bookmark(now: float, end: float) -> float:
    due = min(now + _BOOKMARK_EVERY_S, end - _LAST_BOOKMARK_S)
    return due if due > now else end


def _event(change: Change, matches: Matcher) -> tuple[str, Object] | None:
    """What a change means to a watch; leaving its selection is an end."""
    was = change.before is not None and matches(change.before)
    now = change.after is not None and matches(change.after)
    if now and change.after is not None:
        return ("MODIFIED" if was else "ADDED"), change.after
    if not was or change.before is None:
        return None
    if change.last is not None:
        return "DELETED", change.last
    meta = {**change.before["metadata"], "resourceVersion": str(change.version)}
    return "DELETED", {**change.before, "metadata": meta}
