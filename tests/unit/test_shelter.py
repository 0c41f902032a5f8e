"""A watcher goes into a scope of systemd's where its container would end it, and nowhere else."""

import pytest

from aftershock.agent import shelter


@pytest.mark.parametrize(
    ("root", "first", "goes"),
    [("", "systemd", False), ("/proc/1/root", "k3s", False), ("/proc/1/root", "systemd", True)],
)
def test_only_under_the_systemd_of_a_container_s_host(
    monkeypatch: pytest.MonkeyPatch, root: str, first: str, goes: bool
) -> None:
    monkeypatch.setenv("AFTERSHOCK_HOST_ROOT", root)
    monkeypatch.setattr(shelter, "_first", lambda: first)
    words = shelter.scope(4711, "loss-1-4711")
    assert bool(words) is goes
    if goes:
        assert words[words.index("systemd-run") - 2 :][:2] == ["--mount=/proc/1/ns/mnt", "--"]
        assert "--unit=aftershock-loss-1-4711" in words
        assert words[-2:] == ["--mount=/proc/4711/ns/mnt", "--"], "its Python is the image's"
