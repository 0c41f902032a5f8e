"""Run every benchmark and write build/bench.json."""

import json
from pathlib import Path

from benchmarks import gpu, idle, kill, load, outage, page, partition, ssh


def main() -> None:
    """Each row: name, value, unit, peer, peer_value, ratio (value / peer_value)."""
    parts = (partition, ssh, kill, idle, gpu, outage, load, page)
    rows = [line for part in parts for line in part.rows()]
    target = Path("build/bench.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(rows, indent=2) + "\n")
    for row in rows:
        print(
            f"{row['name']:<46} {row['value']:>10.4g} {row['unit']:<4} "
            f"{row['peer']:<24} {row['peer_value']:>10.4g}   ratio {row['ratio']:.3g}"
        )
    print(f"written: {target}")


if __name__ == "__main__":
    main()
