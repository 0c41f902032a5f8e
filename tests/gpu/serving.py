"""A small model with random weights on the first GPU, by PyTorch: `python serving.py HIDDEN`.

For each line with a batch size it answers one line of JSON: how long that took, or what CUDA said.
"""

import json
import sys
import time


def main() -> None:
    """Serve until the input ends."""
    import torch

    hidden = int(sys.argv[1])
    device = torch.device("cuda:0")
    layers = [torch.nn.Linear(hidden, hidden, bias=False) for _ in range(8)]
    model = torch.nn.Sequential(*layers).half().to(device).eval()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        began = time.monotonic()
        try:
            with torch.inference_mode():
                model(torch.randn(int(line), hidden, device=device, dtype=torch.half)).sum().item()
            told = {"took_s": time.monotonic() - began}
        except RuntimeError as error:
            torch.cuda.empty_cache()
            told = {"failed": str(error).splitlines()[0], "kind": type(error).__name__}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
