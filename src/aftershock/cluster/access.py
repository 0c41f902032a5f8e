"""The ways in to a Kubernetes API: kubeconfig files and a context of them, or a pod's own account.

Files are read here, as kubectl reads them: the client takes the current context from the last of
several files where kubectl takes the first, and goes on without credentials when a plugin fails.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aftershock.cluster.refusals import NoAccess, expiry_of

IN_CLUSTER = "in-cluster"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATHS = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key", "tokenFile"),
}

Plain = dict[str, Any]


@dataclass
class Access:
    """One way in. `str()` gives it back as text that `find` understands, for the ledger.

    `settings` is the client's configuration; `content` what a kubeconfig of this context alone
    holds, with absolute paths. What is secret in it is held in memory: no client writes it to disk.
    """

    files: tuple[str, ...]
    context: str
    namespace: str
    settings: Any
    content: Plain = field(repr=False)
    is_current: bool = False
    _held: list[int] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        return f"{os.pathsep.join(self.files)}#{self.context}" if self.files else IN_CLUSTER

    @property
    def place(self) -> str:
        """Where it leads, in words."""
        host = self.settings.host
        if not self.files:
            return f"{host} (this pod's service account)"
        return f"{host} (context {self.context} of {os.pathsep.join(self.files)})"

    def file(self) -> str | None:
        """A kubeconfig of this context alone, for other programs of this user; None in a pod.

        The user's own file where it says the same; else it is in memory, and ends with this process
        or with `close`.
        """
        if len(self.files) == 1 and self.is_current:
            return self.files[0]
        if not self.files:
            return None
        return _hold("kubeconfig", yaml.safe_dump(self.content).encode(), self._held)

    def expiry(self) -> str:
        """When the credentials ended, if that can be read from them and they did."""
        return expiry_of(self.settings)

    def close(self) -> None:
        """Let go of what is held in memory."""
        while self._held:
            with contextlib.suppress(OSError):
                os.close(self._held.pop())


def find(kubeconfig: str | None = None, context: str | None = None) -> Access:
    """The way in that is meant: a kubeconfig, KUBECONFIG, ~/.kube/config, or a pod's account.

    `kubeconfig` may be several paths as KUBECONFIG has them, and end with `#CONTEXT`. `NoAccess`
    says what is wrong with it and which contexts there are; nothing is asked of a cluster yet.
    """
    from kubernetes import client
    from urllib3.util import Retry

    # It would tell of every retry on its own; what came of them is told once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    told, _, its_context = (kubeconfig or "").partition("#")
    files = _files(told)
    settings = client.Configuration()
    settings.retries = Retry(2, backoff_factor=0.1)
    if not files:
        return _of_this_pod(settings, context)
    return _of_files(files, context or its_context or None, settings)


def _files(told: str) -> tuple[str, ...]:
    """The files that are there, absolute; none: this is a pod of the cluster."""
    if told == IN_CLUSTER:
        return ()
    words = told or os.environ.get("KUBECONFIG", "")
    if words:
        paths = [Path(word).expanduser().absolute() for word in words.split(os.pathsep) if word]
        named = [str(path) for path in paths]
        if found := tuple(str(path) for path in paths if path.is_file()):
            return found
        where = "" if told else " (KUBECONFIG)"
        raise NoAccess(f"there is no kubeconfig {', '.join(named)}{where}: name one that is there")
    usual = Path("~/.kube/config").expanduser()
    if usual.is_file():
        return (str(usual),)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return ()
    raise NoAccess(
        "no cluster is known: there is no ~/.kube/config, KUBECONFIG is not set, and this is no "
        "pod: name a kubeconfig"
    )


def _of_this_pod(settings: Any, context: str | None) -> Access:
    from kubernetes import config

    if context:
        raise NoAccess(f"context {context!r}: a pod's service account has none: leave it out")
    load: Any = config.load_incluster_config
    try:
        load(client_configuration=settings)
    except (config.ConfigException, OSError) as error:
        raise NoAccess(f"this pod's service account can't be used: {error}") from None
    namespace = "default"
    with contextlib.suppress(OSError):
        namespace = (_ACCOUNT / "namespace").read_text().strip() or namespace
    return Access((), "", namespace, settings, {})


def _of_files(files: tuple[str, ...], context: str | None, settings: Any) -> Access:
    merged = _merged(files)
    known, users = merged["contexts"], merged["users"]
    chosen = context or merged["current"]
    names = ", ".join(known) or "none"
    where = os.pathsep.join(files)
    if not chosen:
        raise NoAccess(f"{where} has no current context: name one of its contexts: {names}")
    if chosen not in known:
        raise NoAccess(f"{where} has no context {chosen!r}: it has {names}")
    about = known[chosen]
    for kind, name in (("clusters", about.get("cluster")), ("users", about.get("user"))):
        if name is not None and name not in merged[kind]:
            raise NoAccess(
                f"context {chosen!r} of {where} names the {kind[:-1]} {name!r}, which isn't there"
            )
    if not about.get("cluster"):
        raise NoAccess(f"context {chosen!r} of {where} names no cluster: give it one")
    cluster, user = merged["clusters"][about["cluster"]], users.get(about.get("user"), {})
    content = _content(chosen, about, cluster, user)
    namespace, is_current = about.get("namespace") or "default", chosen == merged["current"]
    access = Access(files, chosen, namespace, settings, content, is_current)
    try:
        _load(access, cluster, user)
    except BaseException:
        access.close()
        raise
    return access


def _merged(files: tuple[str, ...]) -> Plain:
    """What several files say together: whoever says a thing first is heard, as with kubectl."""
    found: Plain = {"contexts": {}, "clusters": {}, "users": {}, "current": ""}
    for path in files:
        plain = _read(path)
        found["current"] = found["current"] or plain.get("current-context") or ""
        for kind in ("contexts", "clusters", "users"):
            for item in plain.get(kind) or ():
                if not isinstance(item, Mapping) or "name" not in item:
                    raise NoAccess(f"the kubeconfig {path} can't be used: {kind} without a name")
                inner = dict(item.get(kind[:-1]) or {})
                found[kind].setdefault(item["name"], _absolute(kind[:-1], inner, Path(path).parent))
    return found


def _read(path: str) -> Plain:
    try:
        plain = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "problem", None) or "not UTF-8"
        raise NoAccess(f"the kubeconfig {path} can't be read: {reason}: name another") from None
    if not isinstance(plain, dict):
        raise NoAccess(f"the kubeconfig {path} can't be used: it is empty or no kubeconfig")
    return plain


def _absolute(kind: str, inner: Plain, folder: Path) -> Plain:
    """Paths are relative to the file that they stand in."""
    for key in _PATHS.get(kind, ()):
        if inner.get(key):
            inner[key] = str(folder / Path(inner[key]).expanduser())
    plugin = inner.get("exec")
    if isinstance(plugin, Mapping) and "/" in str(plugin.get("command", "")):
        inner["exec"] = {**plugin, "command": str(folder / plugin["command"])}
    return inner


def _content(name: str, about: Plain, cluster: Plain, user: Plain) -> Plain:
    context = {"cluster": name, "user": name, "namespace": about.get("namespace") or "default"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": context}],
    }


def _load(access: Access, cluster: Plain, user: Plain) -> None:
    from kubernetes.config import ConfigException
    from kubernetes.config.kube_config import KubeConfigLoader

    content = _content(access.context, {}, *_in_memory(access, cluster, user))

    class Loader(KubeConfigLoader):
        """The client's own logs a plugin's failure and goes on as nobody."""

        def _load_from_exec_plugin(self) -> Any:
            with _root_errors() as said:
                done: Any = super()._load_from_exec_plugin()  # type: ignore[no-untyped-call]
            if said:
                command = user["exec"].get("command")
                reason = said[0].removeprefix("exec: ").strip().rstrip(".")
                raise NoAccess(
                    f"the credential plugin {command} of context {access.context} failed: "
                    f"{reason}: log in anew"
                )
            return done

    try:
        loader: Any = Loader
        loader(content, active_context=access.context).load_and_set(access.settings)
    except (ConfigException, OSError, ValueError) as error:
        raise NoAccess(
            f"context {access.context} of {os.pathsep.join(access.files)} can't be used: {error}"
        ) from None


def _in_memory(access: Access, cluster: Plain, user: Plain) -> tuple[Plain, Plain]:
    """Certificates and keys by the paths of memory files: the client would write them to /tmp."""
    told = []
    for inner in (cluster, user):
        kept = dict(inner)
        for key in ("certificate-authority", "client-certificate", "client-key"):
            if data := kept.pop(f"{key}-data", None):
                try:
                    content = base64.b64decode(data, validate=True)
                except (ValueError, TypeError):
                    raise NoAccess(
                        f"context {access.context}: {key}-data is no base64: fetch it anew"
                    ) from None
                kept[key] = _hold(key, content, access._held)
        told.append(kept)
    return told[0], told[1]


def _hold(name: str, content: bytes, held: list[int]) -> str:
    """A file in memory, and its path; processes of the same user can read it, too."""
    number = os.memfd_create(name, os.MFD_CLOEXEC)
    held.append(number)
    with open(number, "wb", closefd=False) as file:
        file.write(content)
    return f"/proc/{os.getpid()}/fd/{number}"


@contextlib.contextmanager
def _root_errors() -> Iterator[list[str]]:
    """What is logged as an error to the root logger meanwhile, which prints none of it."""
    root, said = logging.getLogger(), []

    def hear(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    quiet = logging.NullHandler()  # without any handler, `logging.error` would add one for good
    root.addHandler(quiet)
    root.addFilter(hear)
    try:
        yield said
    finally:
        root.removeFilter(hear)
        root.removeHandler(quiet)
