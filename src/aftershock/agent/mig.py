"""The instances of GPUs that MIG splits: what NVML tells of each, and how they are named.

Memory and processes are an instance's own. Clocks, power, temperature, ECC and Xids are the whole
card's, and NVML tells nobody how busy an instance is.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Sequence

from .errors import Invalid

PREFIX = "MIG-"
Told = Dict[str, Any]


def instances(library: Any, handle: Any, more: Callable[[Any, Any], Told]) -> List[Told]:
    """Each instance of a card by its number and UUID, and `more`; none where it isn't split.

    One that this process may not reach is none for it.
    """
    found = []
    for number in range(_most(library, handle)):
        try:
            part = library.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
        except library.NVMLError as error:  # numbers have gaps
            if error.value == library.NVML_ERROR_GPU_IS_LOST:
                raise
            continue
        uuid = library.nvmlDeviceGetUUID(part)
        found.append(
            {
                "number": number,
                "uuid": uuid.decode() if isinstance(uuid, bytes) else str(uuid),
                **more(library, part),
            }
        )
    return found


def _most(library: Any, handle: Any) -> int:
    try:
        return int(library.nvmlDeviceGetMaxMigDeviceCount(handle))
    except library.NVMLError as error:  # an older driver, or an older card
        if error.value == library.NVML_ERROR_GPU_IS_LOST:
            raise
        return 0


def ids(library: Any, part: Any) -> Told:
    """By which numbers `nvidia-smi` lists an instance."""
    return {
        "gpu_instance": library.nvmlDeviceGetGpuInstanceId(part),
        "compute_instance": library.nvmlDeviceGetComputeInstanceId(part),
    }


def as_card(card: Told, instance: Told) -> Told:
    """An instance with all that a card has: None for what is the whole card's, or not told."""
    own = {key: value for key, value in instance.items() if key != "number"}
    shared = {key: card[key] for key in ("lost", "mig", "driver", "level", "compute_mode")}
    return {
        **dict.fromkeys(card),
        **shared,
        **own,
        "index": f"{card['index']} MIG {instance['number']}",
        "parent": card["index"],
        "instances": [],
    }


def with_instances(cards: Sequence[Told]) -> Iterator[Told]:
    """Each card, and its instances behind it."""
    for card in cards:
        yield card
        yield from card["instances"]


def is_whole(card: Told) -> bool:
    """Whether it is a card that MIG splits, not one of its instances."""
    return bool(card.get("mig")) and "parent" not in card


def named(cards: Sequence[Told]) -> str:
    """The instances of cards, as one may name them."""
    return ", ".join(
        f"{one['uuid']} ({one['index']})" for card in cards for one in card["instances"]
    )


def check_there(name: str, cards: Sequence[Told]) -> None:
    """Refuse the name of an instance that no card has; which there are is said."""
    if any(name == one["uuid"] for card in cards for one in card["instances"]):
        return
    if there := named(cards):
        raise Invalid(f"no MIG instance {name} here: there is {there}")
    why = "no GPU of this host is split by MIG: name one by its index"
    if lost := [card["index"] for card in cards if card["lost"]]:
        why = f"GPU {lost[0]} is lost, with what it had: reset it, or restart the host"
    elif any(is_whole(card) for card in cards):
        why = "a GPU is split by MIG, but has none yet: create one (nvidia-smi mig)"
    raise Invalid(f"no MIG instance {name} here: {why}")


def check_not_whole(card: Told, verb: str) -> None:
    """Refuse a card that MIG splits; its instances, which may be named instead, are said."""
    if is_whole(card):
        there = named([card])
        mend = f"name an instance: {there}" if there else "create an instance (nvidia-smi mig)"
        raise Invalid(f"{verb}: GPU {card['index']} is split by MIG: {mend}")
